from bench.analysis.pairs import class_of, comparison, identity, occurrences, runs_by_block, throughputs
from tests.analysis.cells import made_cell


def test_only_timed_runs_that_are_ok_count():
    cell = made_cell([10.0, float("nan"), 30.0])
    cell["runs"].append({"repeat": "traced", "status": "ok", "block": 4, "throughput_samples_s": 1.0})
    assert throughputs(cell) == {1: 10.0, 3: 30.0}


def test_pairs_are_blocks_that_both_cells_have():
    pairs, set_aside = comparison("c", made_cell([1.0, 2.0, 3.0]), made_cell([4.0, float("nan"), 6.0]))
    assert (pairs.local_runs, pairs.remote_runs) == ({1: 1.0, 3: 3.0}, {1: 4.0, 3: 6.0})
    assert set_aside == 0


def test_a_disturbed_run_takes_its_whole_pair_away():
    local, remote = made_cell([1.0, 2.0, 3.0]), made_cell([4.0, 5.0, 6.0])
    remote["runs"][1]["disturbed"] = ["throttled"]
    pairs, set_aside = comparison("c", local, remote)
    assert (pairs.local_runs, set_aside) == ({1: 1.0, 3: 3.0}, 1)
    assert throughputs(remote) == {1: 4.0, 3: 6.0}


def test_where_almost_all_was_disturbed_all_counts():
    local, remote = made_cell([1.0, 2.0, 3.0]), made_cell([4.0, 5.0, 6.0])
    for run in local["runs"][:2]:
        run["disturbed"] = True
    pairs, set_aside = comparison("c", local, remote)
    assert (len(pairs.local_runs), set_aside) == (3, 0)


def test_of_a_block_measured_again_the_last_run_counts():
    cell = made_cell([1.0, 2.0])
    cell["runs"].insert(0, cell["runs"][0] | {"position": 9, "throughput_samples_s": 7.0})
    assert runs_by_block(cell)[1]["throughput_samples_s"] == 7.0


def test_a_comparison_with_a_launch_bound_side_is_launch_bound():
    loud = made_cell([1.0], noise_class="launch-bound")
    assert comparison("c", made_cell([1.0]), loud)[0].noise_class == "launch-bound"


def test_identity_is_all_but_the_node():
    here = made_cell([1.0])
    assert identity(here) == identity(made_cell([2.0], cpu_node=2))
    for other in ({"gpu": 1}, {"model": "vit0x0x0"}, {"batch_size": 32}):
        assert identity(here) != identity(made_cell([1.0], **other))
    assert identity(here, ["batch_size"]) == identity(made_cell([1.0], batch_size=32), ["batch_size"])


def test_a_model_listed_twice_counts_twice():
    assert [number for _, number in occurrences("abab", str)] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_a_comparison_has_the_class_of_its_noisier_cell():
    rest, launch, untraced = ({"noise_class": name} for name in ("rest", "launch-bound", "unknown"))
    assert class_of(rest, rest) == "rest"
    assert class_of(rest, untraced) == "unknown"
    assert class_of(untraced, launch) == class_of(launch, rest) == "launch-bound"
