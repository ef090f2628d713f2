"""The command numastudy: what it prints, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import luigi
import pytest
from click.testing import CliRunner, Result

from bench.cli import main
from tasks.nightly import NightlySweep
from tasks.studies import QuickTest, Study
from tests.host.made_hosts import host_root

NUMASTUDY = Path(sys.executable).with_name("numastudy")
TRACES = Path(__file__).parent / "fixtures" / "traces"


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def plan(*words: str) -> Any:
    result = call("plan", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_installed_command_lists_every_command() -> None:
    help_text = subprocess.run([NUMASTUDY, "--help"], capture_output=True, text=True, check=True, timeout=240).stdout
    assert all(f"\n  {command} " in help_text for command in main.commands)
    # One line each, whole.
    assert all(f" {command.short_help}\n" in help_text for command in main.commands.values())
    assert max(map(len, help_text.splitlines())) <= 80


def test_help_of_plan_lists_its_own_options_before_the_keys_of_a_study() -> None:
    own, keys = call("plan", "--help").output.split("Keys of the study")
    assert "--cells" in own and "--batch-size" not in own and "--batch-size" in keys


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_option_has_a_help_text(command: str) -> None:
    options = [each for each in main.commands[command].params if isinstance(each, click.Option)]
    assert not [option.name for option in options if not option.help]


@pytest.mark.parametrize("task", [QuickTest, Study, NightlySweep])
def test_every_task_parameter_has_a_description(task: type[luigi.Task]) -> None:
    assert not [name for name, parameter in task.get_params() if not parameter.description]


@pytest.mark.parametrize(
    ("task", "cells", "runs"),
    [("NumaStudy", 48, 336), ("QuickTest", 3, 6), ("ScalingStudy", 9, 63), ("SelfCheck", 8, 56)],
)
def test_plan_counts_the_shipped_grids(tmp_path: Path, task: str, cells: int, runs: int) -> None:
    planned = plan(task, "--output-dir", str(tmp_path), "--binding", "none")
    assert (len(planned["cells"]), planned["runs"]) == (cells, runs)
    assert {"name", "gpu", "cpu_node", "mem_node", "model", "state", "reason"} <= set(planned["cells"][0])
    assert not list(tmp_path.iterdir())


def test_plan_notes_that_a_gpu_number_is_a_label(tmp_path: Path) -> None:
    def last(*words: str) -> str:
        study = ("QuickTest", "--device", "cpu", "--models", '["vit0x0x0"]', "--output-dir", str(tmp_path))
        return call("plan", *study, "--binding", "none", *words).stdout.splitlines()[-1]

    label = "CPU device: the number of a GPU is a label here"
    assert last("--gpu-ids", "[7]") == label
    assert last("--gpu-ids", "[0,1]") == f"{label}: cells that differ in it alone measure the same"
    assert label not in last()


def test_plan_is_a_summary_and_lists_cells_on_demand(tmp_path: Path) -> None:
    words = ("plan", "QuickTest", "--binding", "none", "--numa-nodes", "0,77", "--output-dir", str(tmp_path))
    summary, whole = call(*words).stdout, call(*words, "--cells").stdout
    assert summary.startswith("quick_test: 6 cells (3 todo, 3 not_runnable)")
    assert "not_runnable: no such NUMA node: 77" in summary and "numa77_vit0x0x0 and 2 more cells)" in summary
    assert "  todo\n" not in summary and "\n\npipeline_gpu0_numa0_vit0x0x0 " in whole and "  todo\n" in whole


def test_redact_replaces_a_file_with_force_only_and_never_its_source(tmp_path: Path) -> None:
    source, copy = str(TRACES / "h100_vit32x2x128_cuda_graph.sqlite.gz"), tmp_path / "copy.sqlite"
    copy.write_text("mine")
    refused = call("redact", source, "-o", str(copy))
    assert refused.exit_code == 2 and "exists already" in refused.stderr and copy.read_text() == "mine"
    assert call("redact", source, "-o", str(copy), "--force").exit_code == 0
    size = copy.stat().st_size
    refused = call("redact", str(copy), "-o", str(copy), "--force")
    assert refused.exit_code == 2 and "would replace its source" in refused.stderr and copy.stat().st_size == size


@pytest.mark.parametrize("words", ["today", "yesterday", "7 days", "7d", "2 weeks ago", "2026-11-28", "20261128"])
def test_history_since_a_day_in_words(tmp_path: Path, words: str) -> None:
    result = call("history", "--output-dir", str(tmp_path), "--since", words)
    assert "is no day" not in result.stderr and "--since" not in result.stderr


def test_plan_of_a_recorded_host(tmp_path: Path) -> None:
    root = str(host_root("two_graces"))
    words = ("--gpu-ids", "all", "--numa-nodes", "all", "--output-dir", str(tmp_path), "--root", root)
    planned = plan("NumaStudy", *words)
    places = {(cell["gpu"], cell["cpu_node"], cell["mem_node"], cell["state"]) for cell in planned["cells"]}
    assert places == {(gpu, node, node, "todo") for gpu in (0, 1) for node in (0, 1)}
    assert "memory of GPU 1: node 4-5, used by placements that name it only" in planned["notes"]
    assert planned["estimate_from"] != "earlier runs on this host"
    hybrid = plan("QuickTest", *words[:-1], str(host_root("two_kinds_of_cores")))["notes"]
    assert "2 kinds of cores (CPUs 5-9,15-19; 0-4,10-14): runs are bound to the first, the fastest" in hybrid


def test_plan_refuses_a_damaged_recording(tmp_path: Path) -> None:
    (tmp_path / "nvml.json").write_text("[]")
    result = call("plan", "QuickTest", "--root", str(tmp_path))
    assert result.exit_code == 2 and "the recorded host cannot be read" in result.stderr


def test_plan_finds_studies_by_name_and_sweeps_them(tmp_path: Path) -> None:
    words = ("--output-dir", str(tmp_path), "--binding", "none")
    names = [cell["name"] for cell in plan("compile_study", "--sweep", '{"batch_size": [1, 10]}', *words)["cells"]]
    assert len(names) == 60
    assert "pipeline_gpu0_numa0_vit32x2x128_bs1_graph" in names
    copy = tmp_path / "mine.yaml"
    copy.write_text("{name: mine, gpu_ids: [0], numa_nodes: [0], models: [vit0x0x0]}")
    for study in ((str(copy),), ("Study", "--config-file", str(copy))):
        assert len(plan(*study, *words)["cells"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
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
        (("advise", "nowhere"), "there is nothing: this is not a run directory\n  where: nowhere\n"),
        (
            ("convert", "--to", "bencher", "nowhere"),
            "there is nothing: this is not a run directory\n  where: nowhere\n",
        ),
        (("compare", "nowhere", "nowhere"), "nowhere"),
        (("submit", "Study", "--nodes", "n1"), "--config-file"),
        (("status", "x" * 300), "File name too long"),
        (("history", "--output-dir", "x" * 300, "--json"), "File name too long"),
        (("ui", "--state", "/proc/nowhere"), "/proc/nowhere"),
        (("history", "--since", "sometime"), "write 2026-11-28, today, yesterday"),
        (("history", "--since", "9999999999 days"), "is no day"),
        (("compare", "--margin", "-1", "nowhere", "nowhere"), "--margin"),
    ],
)
def test_refused_command_names_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert isinstance(result.exception, SystemExit) and result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("command", [("report",), ("history", "--add")])
def test_folder_that_is_not_a_run_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def message() -> str:
        result = call(*command, str(tmp_path))
        assert result.exit_code == 2 and str(tmp_path) in result.stderr
        return result.stderr

    monkeypatch.chdir(tmp_path)
    empty = message()
    assert "not a run directory" in empty and "outputs/<study name>/<date>/<time>" in empty
    (tmp_path / "study.yaml").write_text("name: interrupted")
    interrupted = message()
    assert "no grid.json" in interrupted and "the same command continues" in interrupted
    assert "--fresh" not in interrupted
    (tmp_path / "cluster.json").write_text("{}")
    assert "numastudy status --report" in message()


def test_analyze_reads_a_real_export() -> None:
    result = call("analyze", str(TRACES / "h100_vit32x2x128_cuda_graph.sqlite.gz"), "--json")
    assert result.exit_code == 0, result.stderr
    metrics = json.loads(result.stdout)
    assert (metrics["batches"], metrics["h2d"]["bytes"]) == (200, 200 * 6_021_120)


def test_want_of_memory_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise MemoryError

    (tmp_path / "study.yaml").touch()
    (tmp_path / "grid.json").touch()
    monkeypatch.setattr("bench.report.build.load", exhausted)
    done = call("report", str(tmp_path))
    assert done.exit_code == 2 and done.stderr.startswith("error: out of memory\n")


def test_doctor_judges_this_host() -> None:
    checks = json.loads(call("doctor", "--json").stdout)["checks"]
    assert {check["state"] for check in checks} <= {"ok", "warning", "error"}
    assert len(checks) > 10
