"""The command numastudy, as a user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import click
import luigi
import pytest

from bench.cli import main
from tasks import NightlySweep, QuickTest, Study

NUMASTUDY = Path(sys.executable).with_name("numastudy")
TRACES = Path(__file__).parent / "fixtures" / "traces"


def call(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(NUMASTUDY), *words], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_names_every_command() -> None:
    said = call("--help").stdout
    for command in ("plan", "analyze", "doctor", "probe", "compare", "report", "history", "submit", "status", "ui"):
        assert command in said


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_option_says_what_it_is(command: str) -> None:
    options = [each for each in main.commands[command].params if isinstance(each, click.Option)]
    assert not [option.name for option in options if not option.help]


@pytest.mark.parametrize("task", [QuickTest, Study, NightlySweep])
def test_every_parameter_of_a_task_says_what_it_is(task: type[luigi.Task]) -> None:
    assert not [name for name, parameter in task.get_params() if not parameter.description]


@pytest.mark.parametrize(
    ("task", "cells", "runs"),
    [("NumaStudy", 48, 336), ("QuickTest", 3, 6), ("ScalingStudy", 9, 63), ("SelfCheck", 8, 56)],
)
def test_plan_counts_the_shipped_grids(tmp_path: Path, task: str, cells: int, runs: int) -> None:
    done = call("plan", task, "--json", "--output-dir", str(tmp_path), "--binding", "none")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert (len(plan["cells"]), plan["runs"]) == (cells, runs)
    assert {"name", "gpu", "cpu_node", "mem_node", "model", "state", "reason"} <= set(plan["cells"][0])
    assert not list(tmp_path.iterdir())


def test_plan_says_where_the_number_of_a_gpu_is_a_label(tmp_path: Path) -> None:
    def last(*words: str) -> str:
        asked = ("QuickTest", "--device", "cpu", "--models", '["vit0x0x0"]', "--output-dir", str(tmp_path))
        return call("plan", *asked, "--binding", "none", *words).stdout.splitlines()[-1]

    label = "CPU device: the number of a GPU is a label here"
    assert last("--gpu-ids", "[7]") == label
    assert last("--gpu-ids", "[0,1]") == f"{label}: cells that differ in it alone measure the same"
    assert label not in last()


def test_plan_finds_other_studies_by_name_and_sweeps_them(tmp_path: Path) -> None:
    words = ("--output-dir", str(tmp_path), "--binding", "none", "--json")
    swept = call("plan", "compile_study", "--sweep", '{"batch_size": [1, 10]}', *words)
    assert swept.returncode == 0, swept.stderr
    names = [cell["name"] for cell in json.loads(swept.stdout)["cells"]]
    assert len(names) == 60
    assert "pipeline_gpu0_numa0_vit32x2x128_bs1_graph" in names
    copy = tmp_path / "mine.yaml"
    copy.write_text("{name: mine, gpu_ids: [0], numa_nodes: [0], models: [vit0x0x0]}")
    for asked in ((str(copy),), ("Study", "--config-file", str(copy))):
        assert len(json.loads(call("plan", *asked, *words).stdout)["cells"]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "QuickTset"), "did you mean QuickTest?"),
        (("plan", "NightlySweep"), "configs/nightly.yaml` shows its list"),
        (("plan", "compil_study"), "did you mean compile_study?"),
        (("plan", "QuickTest", "--sweep", '{"dtype": ["bf61"]}'), "--sweep.dtype[0]"),
        (("plan", "Study"), "--config-file"),
        (("plan", "QuickTest", "--config-file", "mine.yaml"), "QuickTest has a file of its own"),
        (("plan", "QuickTest", "--batch-size", "0"), "--batch-size"),
        (("plan", "Study", "--config-file", "none.yaml"), "none.yaml"),
        (("plan", "QuickTest", "--numa-nodes", "[77]"), "no cell of quick_test can run on this host"),
        (("report", "nowhere"), "not a run directory"),
        (("report", __file__), "not a run directory"),
        (("compare", "nowhere", "nowhere"), "nowhere"),
        (("submit", "Study", "--nodes", "n1"), "--config-file"),
        (("status", "x" * 300), "File name too long"),
        (("history", "--output-dir", "x" * 300, "--json"), "File name too long"),
        (("ui", "--state", "/proc/nowhere"), "/proc/nowhere"),
        (("history", "--since", "yesterday"), "--since"),
        (("compare", "--margin", "-1", "nowhere", "nowhere"), "--margin"),
    ],
)
def test_what_is_refused_is_told_without_a_traceback(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("command", [("report",), ("history", "--add")])
def test_a_folder_that_is_no_run_directory_is_named_as_such(tmp_path: Path, command: tuple[str, ...]) -> None:
    def refused(folder: Path) -> str:
        done = call(*command, str(folder), cwd=tmp_path)
        assert done.returncode == 2 and str(folder) in done.stderr
        return done.stderr

    assert "not a run directory" in (said := refused(tmp_path)) and "outputs/<study name>/<date>/<time>" in said
    (tmp_path / "study.yaml").write_text("name: cut_short")
    assert "no grid.json" in (said := refused(tmp_path)) and "the same command goes on" in said
    assert "--fresh" not in said and "make it again" not in said
    (tmp_path / "cluster.json").write_text("{}")
    assert "numastudy status --report" in refused(tmp_path)


def test_analyze_reads_a_real_export() -> None:
    done = call("analyze", str(TRACES / "h100_vit32x2x128_cuda_graph.sqlite.gz"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["batches"], found["h2d"]["bytes"]) == (200, 200 * 6_021_120)


def test_doctor_judges_this_host() -> None:
    checks = json.loads(call("doctor", "--json").stdout)["checks"]
    assert {check["state"] for check in checks} <= {"ok", "warning", "error"}
    assert len(checks) > 10
