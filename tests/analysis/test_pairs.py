import pytest
from msgspec import structs

from bench.analysis.pairs import class_of, comparison, identity, number_duplicates, runs_by_block, throughputs
from bench.records.results import NoiseClass
from tests.analysis.cells import made_cell


def change_run(cell, index, **changes):
    runs = list(cell.runs)
    runs[index] = structs.replace(runs[index], **changes)
    return structs.replace(cell, runs=tuple(runs))


def test_throughputs_are_of_timed_runs_that_succeeded():
    cell = made_cell([10.0, float("nan"), 30.0, 1.0])
    assert throughputs(change_run(cell, 3, repeat="traced")) == {1: 10.0, 3: 30.0}


def test_pairs_are_blocks_that_both_cells_have():
    pairs, excluded = comparison("c", made_cell([1.0, 2.0, 3.0]), made_cell([4.0, float("nan"), 6.0]))
    assert (pairs.local_runs, pairs.remote_runs) == ({1: 1.0, 3: 3.0}, {1: 4.0, 3: 6.0})
    assert excluded == 0


def test_a_disturbed_run_excludes_its_pair():
    local, remote = made_cell([1.0, 2.0, 3.0]), change_run(made_cell([4.0, 5.0, 6.0]), 1, disturbed=True)
    pairs, excluded = comparison("c", local, remote)
    assert (pairs.local_runs, excluded) == ({1: 1.0, 3: 3.0}, 1)
    assert throughputs(remote) == {1: 4.0, 3: 6.0}


def test_all_runs_count_when_almost_all_were_disturbed():
    local, remote = made_cell([1.0, 2.0, 3.0]), made_cell([4.0, 5.0, 6.0])
    for index in (0, 1):
        local = change_run(local, index, disturbed=True)
    pairs, excluded = comparison("c", local, remote)
    assert (len(pairs.local_runs), excluded) == (3, 0)


def test_the_last_run_of_a_block_counts():
    cell = made_cell([1.0, 2.0])
    again = structs.replace(cell.runs[0], position=9, throughput_samples_s=7.0)
    cell = structs.replace(cell, runs=(again, *cell.runs))
    assert runs_by_block(cell)[1].throughput_samples_s == 7.0


def test_identity_is_all_but_the_node():
    here = made_cell([1.0])
    assert identity(here) == identity(made_cell([2.0], cpu_node=2))
    for other in ({"gpu": 1}, {"model": "vit0x0x0"}, {"batch_size": 32}):
        assert identity(here) != identity(made_cell([1.0], **other))
    assert identity(here, ["batch_size"]) == identity(made_cell([1.0], batch_size=32), ["batch_size"])


def test_number_duplicates_counts_earlier_equal_keys():
    assert number_duplicates("abab", str) == [0, 0, 1, 1]


@pytest.mark.parametrize(("classes", "expected"), [
    (("device-bound", "device-bound"), NoiseClass.DEVICE_BOUND),
    (("device-bound", "unknown"), NoiseClass.UNKNOWN),
    (("unknown", "launch-bound"), NoiseClass.LAUNCH_BOUND),
    (("launch-bound", "device-bound"), NoiseClass.LAUNCH_BOUND),
])  # fmt: skip
def test_a_comparison_has_the_class_of_its_noisier_cell(classes, expected):
    cells = [made_cell([1.0], noise_class=name) for name in classes]
    assert class_of(*cells) is expected
    assert comparison("c", *cells)[0].noise_class is expected
