"""The command that measures the goals of crossings: its delays on the cpu device, and its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records.base import plain, read
from bench.records.run import ChildReport, Crossing, Group
from bench.report.build import make_report
from bench.run.child import child_environment
from bench.storage import write_json
from bench.workload.turns import half_ratios, midmean
from tests.run_directories import build_run_directory, crossed_process, topology_json
from tests.validation import crossing_goals
from tests.validation.injected_crossing import server
from tests.workload.cells import NO_COMPUTE, TINY, small_cell

NAME = "pipeline_gpu0_vit16x1x32"
AGAIN = f"{NAME}_again"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["launch", "kernel", "copy"])
def test_delay_of_one_side_is_found_by_its_name(tmp_path: Path, stage: str) -> None:
    """As much again as a batch takes."""
    same = {"binding": "numactl", "warmup_samples": 4, "model": NO_COMPUTE if stage == "copy" else TINY}
    cells = [small_cell(name=name, **same) for name in (NAME, AGAIN)]
    crossing = Crossing(group=NAME, process=1, id="0" * 32, birth_cpu_node=0, birth_mem_node=0)
    group = Group(crossing=crossing, cells=cells, measure_s=1.5, window_s=0.005, lead_s=0.003, solo=False)
    write_json(tmp_path / "group.json", plain(group))
    asked = ["--group", str(tmp_path / "group.json"), "--mode", "crossed", "--result", str(tmp_path / "result.json")]
    command = [sys.executable, *server(stage, 1.0), *asked]
    ended = subprocess.run(command, env=child_environment(dict(os.environ)), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    windows = {one.cell: one.result.windows for one in read(tmp_path / "result.json", ChildReport).crossed}
    assert midmean(half_ratios(windows[NAME], windows[AGAIN])) < -0.2


def test_table_has_each_comparison_and_the_share_of_windows(tmp_path: Path) -> None:
    overrides = {"gpu_ids": [0], "numa_nodes": [0, 1], "repeats": 6, "models": ["vit0x0x0"]}
    folder = tmp_path / "nodes" / "numa_locality_study" / "2026-11-22" / "18-00-00"
    process = crossed_process(penalty=0.02)
    build_run_directory(folder, "numa_locality_study", overrides, topology=topology_json(1, (0,), 2), crossed=process)
    assert crossing_goals.figures("nodes", tmp_path / "nodes") is None
    make_report(folder, "test")
    row = crossing_goals.figures("nodes", tmp_path / "nodes")
    one, *times = row["comparisons"]
    assert one["interval"][0] < 0.02 < one["interval"][1] and 0 < row["share"] < 1
    text = crossing_goals.page([json.loads(json.dumps(row))])
    assert f"| nodes | {one['cell']} | " in text and row["gpu"] in text
    assert [time["cell"].split(", ")[1] for time in times] == ["p50", "p99"]
    assert row["phases"]["others"]["measure"] > 0 and "| nodes | others | " in text
    assert row["claims"]["claims of the report"] >= 1 and row["claims"]["different"] == 0
    # 24 groups of six processes, and one traced process each.
    assert row["whole_numa_study_s"] > 144 * row["process_s"]


def test_equal_cells_have_no_claims(tmp_path: Path) -> None:
    overrides = {"gpu_ids": [0], "numa_nodes": [0], "repeats": 6, "models": ["vit0x0x0", "vit0x0x0"]}
    folder = tmp_path / "by_turns" / "self_check" / "2026-11-22" / "18-00-00"
    process = crossed_process(penalty=0.0)
    build_run_directory(folder, "self_check", overrides, topology=topology_json(1, (0,), 1), crossed=process)
    make_report(folder, "test")
    row = crossing_goals.figures("by_turns", tmp_path / "by_turns")
    assert list(row["claims"].values()) == [1, 0, 0, 0, 0, 0]
    text = crossing_goals.page([json.loads(json.dumps(row))])
    assert ", p50 | " in text and "| by_turns | 1 | 0 | 0 | 0 | 0 | 0 |" in text
