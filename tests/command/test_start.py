"""`numastudy run` and CommandStudy: the file that is written, the call of luigi, and a whole study of a command."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.command import start
from bench.errors import StudyError
from bench.host import connections
from bench.study.load import load_study

BIN = Path(sys.executable).parent
WORK = "import os, time; time.sleep(0.02 * (1 + float(os.environ['NUMASTUDY_REPEAT']) / 100))"


def test_options_become_the_block():
    asked = start.Asked("serve --port {port}", "up", "", ("a=x,(.*),tok/s,higher",), ("A=b=c",), ("KEY",))
    assert asked.block() == {
        "server": "serve --port {port}",
        "ready": "up",
        "metrics": {"a": {"regex": "x,(.*)", "unit": "tok/s", "better": "higher"}},
        "env": {"A": "b=c"},
        "pass_env": ["KEY"],
    }
    for wrong in ("a", "a=x,s", "a=x,s,faster"):
        with pytest.raises(StudyError, match="allowed is NAME=REGEX"):
            start.Asked(metrics=(wrong,)).block()


def test_call_takes_the_scheduler_that_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(start, "LOOPBACK", server.getsockname())
        assert "--local-scheduler" not in start.luigi_argv("QuickTest", Path("o"), {})
        # As that of another user of this host, who could let luigi run any code.
        with monkeypatch.context() as other:
            other.setattr(connections.os, "geteuid", lambda: 12345)
            listens = start.listens_as_own_user(server.getsockname()[1])
            assert listens is (os.getuid() == 0)
    line = start.luigi_argv("mine.yaml", Path("o"), {"gpu_ids": "[0]"}, ["--fresh"])
    assert line[1:] == [
        *("--module", "tasks", "Study", "--config-file", "mine.yaml", "--output-dir", "o"),
        *("--gpu-ids", "[0]", "--fresh", "--local-scheduler"),
    ]


def test_luigi_is_called_as_a_module_when_it_has_no_script(tmp_path, monkeypatch):
    python = tmp_path / "python3"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    assert start.luigi_argv("QuickTest", Path("o"), {})[:5] == [str(python), "-m", "luigi", "--module", "tasks"]
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match="luigi is not installed for this Python"):
        start.luigi_argv("QuickTest", Path("o"), {})


def test_command_runs_as_a_module():
    call = [sys.executable, "-m", "bench.cli", "run", "NearestNode", "--dry-run"]
    done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "nearest_node: " in done.stdout


def test_run_writes_a_study_file_that_can_be_used_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["run", "--dry-run", "--read", "wall", "--nodes", "0", "--name", "mine"]
    found = CliRunner().invoke(main, [*options, "--", "./bench", "--run", "-x"])
    assert found.exit_code == 0, found.output
    assert "mine: 1 cell (1 todo), 6 runs" in found.output
    block = load_study(tmp_path / "outputs" / "mine" / "study.yaml").command
    assert (block.run, block.cwd) == (("./bench", "--run", "-x"), str(tmp_path))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["QuickTest", "--", "true"], "a study and a command exclude each other"),
        (["QuickTest", "--read", "wall"], "these options are of a command"),
        (["--metric", "x", "--", "true"], "allowed is NAME=REGEX"),
        ([], "nothing to measure"),
        (["python3", "mine.py"], "numastudy run -- python3 mine.py"),
        (["--name", "../mine", "--", "true"], "found '../mine'"),
        (["--", "true", b"\xff".decode(errors="surrogateescape")], "not UTF-8"),
    ],
)
def test_wrong_usage_is_refused(tmp_path, monkeypatch, options, what):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    found = CliRunner().invoke(main, ["run", *options])
    assert found.exit_code != 0 and what in found.output
    assert [*tmp_path.rglob("*")] == [tmp_path / "work"]


@pytest.mark.parametrize(
    ("argv", "what", "advice"),
    [
        (["./nowhere"], "there is no such program", "name another"),
        (["no-such-program-here"], "there is no such program", "name another"),
        (["./plain"], "cannot be executed", "name another"),
        (["echo a | cat"], "there is no such program", "there is no shell: -- sh -c 'echo a | cat'"),
    ],
)
def test_program_that_is_not_there_is_refused_at_once(tmp_path, monkeypatch, argv, what, advice):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").touch(0o644)
    called = CliRunner().invoke(main, ["run", "--read", "wall", "--", *argv])
    assert called.exit_code == 2 and not (tmp_path / "outputs").exists()
    assert what in called.output and argv[0] in called.output and advice in called.output


@pytest.mark.slow
def test_study_of_a_command_from_the_line_to_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "LOOPBACK", ("127.0.0.1", 1))
    options = ["--read", "wall", "--nodes", "0", "--repeats", "3", "--name", "mine", "--output-dir", str(tmp_path)]
    options += ["--binding", "none", "--disturbed-repeats", "0", "--sweep", '{"binding": ["none", "self"]}']
    line = [str(BIN / "numastudy"), "run", *options, "--", sys.executable, "-S", "-c", WORK]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = tmp_path.glob("mine/*/*/results.json")
    results = json.loads(report.read_text())
    assert [cell["outcome"] for cell in results["cells"]] == ["ok", "ok"]
    metric = results["cells"][0]["metric"]
    assert (metric["unit"], metric["better"], len(results["cells"][0]["runs"])) == ("s", "lower", 3)
    assert results["counts"]["runs"] == 6
    page = report.with_name("report.html").read_text()
    assert "time, s" in page and "samples/s" not in page
    # Its table of settings has what was started, and nothing of the pipeline.
    assert "-S -c" in page and "CommandBlock" not in page and "window s" not in page and "batch size" not in page
    # The same by luigi itself; the run directory is found again, and nothing is left to do.
    again = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert "Nothing was measured now" in again.stdout + again.stderr


@pytest.mark.slow
def test_command_study_is_a_task(tmp_path):
    """With several metrics and variables, of which one is never stored."""
    program = tmp_path / "tool.py"
    program.write_text("import os; print('a', os.environ['A']); print('b', os.environ['B'], len(os.environ['KEY']))")
    options = ["--numa-nodes", "[0]", "--repeats", "1", "--binding", "none", "--output-dir", "o", "--env", "A=2"]
    options += ["--metric", json.dumps([r"a=a (\d+),s,lower", r"b=b (\d+),x,higher"]), "--pass-env", '["B", "KEY*"]']
    task = ["CommandStudy", "--local-scheduler", "--command", f"python3 -S {program}"]
    done = subprocess.run(
        [str(BIN / "luigi"), "--module", "tasks", *task, *options],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env=os.environ | {"B": "3", "KEY": "a-secret-of-23-letters"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("o/tool/*/*/results.json")
    metric = json.loads(file.read_text())["cells"][0]["metric"]
    values = metric["value"], metric["others"]["b"]["value"]
    assert metric["name"] == "a" and values == pytest.approx((2, 3))
    assert not any(b"a-secret" in path.read_bytes() for path in file.parent.rglob("*") if path.is_file())
