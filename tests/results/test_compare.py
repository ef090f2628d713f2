import csv
import io
import json

import pytest
from scipy import stats

from bench.compare import compare, compare_command, fingerprint_differences
from bench.errors import StudyError
from tests.analysis.cells import made_cell, noisy

FACTS = {"host": "a", "cpu": "Xeon", "gpus": "H100 GPU-1", "driver": "580", "torch": "2.11"}


def study(levels, facts=FACTS, seed=0, sd=0.002, **more):
    cells = [
        made_cell(noisy(level, 6, sd, seed + i), model=f"m{i}", name=f"cell{i}", **more)
        for i, level in enumerate(levels)
    ]
    return {"study_name": "s", "device": "cuda", "fingerprint": facts, "cells": cells}


@pytest.fixture
def places(tmp_path):
    def write(name, results):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(results))
        return str(folder)

    return write


@pytest.mark.parametrize(("device", "advised"), [("cuda", True), ("cpu", False)])
def test_a_cuda_graph_is_advised_where_there_can_be_one(device, advised):
    more = {"sd": 0.4, "device": device, "noise_class": "launch-bound"}
    (line,) = compare(study([1000], **more), study([1000], seed=9, **more)).lines
    assert ("cuda_graph: true" in line.hint) == advised and "noise" in line.hint


def test_slower_faster_and_same():
    found = compare(study([1000, 1000, 1000]), study([900, 1100, 1000], seed=50))
    assert [line.verdict for line in found.lines] == ["SLOWER", "FASTER", "SAME"]
    assert found.lines[0].effect == pytest.approx(-0.1, abs=0.01)
    assert found.lines[0].interval[0] < found.lines[0].effect < found.lines[0].interval[1] < 0
    assert found.exit_code == 3
    assert compare(study([1000]), study([1100], seed=9)).exit_code == 0


def test_the_interval_is_that_of_two_independent_groups():
    base, new = study([1000, 1000]), study([990, 1000], seed=50)
    line = compare(base, new).lines[0]
    import numpy as np

    logs = [np.log([run["throughput_samples_s"] for run in one["cells"][0]["runs"]]) for one in (new, base)]
    low, high = stats.ttest_ind(*logs).confidence_interval()
    assert line.interval == pytest.approx((np.expm1(low), np.expm1(high)))


def test_other_machines_are_refused_by_name_and_compared_when_forced():
    other = study([1000], FACTS | {"gpus": "H200 GPU-2"})
    with pytest.raises(StudyError, match="gpus was H100 GPU-1, is H200 GPU-2"):
        compare(study([1000]), other)
    forced = compare(study([1000]), other, force=True)
    assert forced.warnings == ("gpus was H100 GPU-1, is H200 GPU-2",)


def test_other_software_is_named_and_compared():
    found = compare(study([1000]), study([1000], FACTS | {"torch": "2.13", "host": "b"}))
    assert found.warnings == ("torch was 2.11, is 2.13",)


def test_a_cpu_study_is_no_match_for_a_gpu_study():
    refused, _ = fingerprint_differences(study([1.0]), study([1.0]) | {"device": "cpu"})
    assert refused == ["device was cuda, is cpu"]


def test_a_study_against_itself_is_told_as_that_and_has_no_direction():
    one, other = ({**study([1000]), "run_directory": place} for place in ("outputs/a", "outputs/b"))
    found = compare(one, one)
    assert found.warnings == ("BASE and NEW are the same study: its runs are compared with themselves",)
    assert found.lines[0].verdict == "SAME"
    assert found.lines[0].text.startswith("no difference larger than 2 %: 0.00 % [-")
    assert compare(one, other).warnings == compare(study([1000]), study([1000])).warnings == ()


def test_a_single_run_against_itself_has_no_direction_either():
    base = {"study_name": "s", "device": "cuda", "fingerprint": FACTS, "cells": [made_cell([1000.0])]}
    assert compare(base, base).lines[0].text == "undecided: no difference, from one pair, which has no spread"


def test_a_study_without_fingerprint_is_warned_about():
    assert "nothing proves" in compare(study([1.0], {}), study([1.0], {})).warnings[0]


def test_cells_without_a_partner_are_named():
    found = compare(study([1, 1, 1]), study([1, 1]))
    assert (len(found.lines), found.warnings) == (2, ("only in BASE: cell2",))
    with pytest.raises(StudyError, match="no cell"):
        compare(study([1]), study([1], batch_size=99))


def test_a_failed_cell_is_a_line_with_its_reason():
    nan = float("nan")
    broken = study([1000]) | {"cells": [made_cell([nan] * 6, model="m0", name="cell0")]}
    line = compare(study([1000]), broken).lines[0]
    assert (line.verdict, line.effect) == (None, None)
    assert "NEW crashed: killed by SIGSEGV" in line.text


def test_the_command_prints_text_json_and_csv(places):
    base, new = places("base", study([1000, 1000])), places("new", study([900, 1000], seed=50))
    text, code = compare_command(base, new)
    assert code == 3 and "cell0  SLOWER" in text
    found = json.loads(compare_command(base, new, "json")[0])
    assert {"name", "verdict", "effect", "interval"} <= found["cells"][0].keys()
    rows = list(csv.DictReader(io.StringIO(compare_command(base, new, "csv")[0])))
    assert [row["verdict"] for row in rows] == ["SLOWER", "SAME"]
    assert float(rows[0]["low"]) < float(rows[0]["effect"]) < float(rows[0]["high"])
