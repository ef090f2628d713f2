"""A real study in an environment full of secrets, and what of them is found afterwards: nothing. Part of `make fuzz`.

The run directory is searched byte by byte, compressed files unpacked. Reports of nsys are left out: they carry the
environment, which is why README says not to publish them.
"""

import gzip
import json
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench.report.bundle import bundle
from tests.tasks.study_calls import TINY, Calls

SECRETS = {
    "NUMASTUDY_CANARY": "canary-5f3a9c-variable",
    "AWS_SECRET_ACCESS_KEY": "canary-5f3a9c-key",
    "HTTPS_PROXY": "http://canary-5f3a9c-user:canary-5f3a9c-word@127.0.0.1:9",
    "USER": "canary-5f3a9c-person",
    "LOGNAME": "canary-5f3a9c-person",
    "SSH_CONNECTION": "canary-5f3a9c-address",
    "PS1": "canary-5f3a9c-prompt",
}
NAMES = ("AWS_SECRET_ACCESS_KEY", "NUMASTUDY_CANARY", "SSH_CONNECTION")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The files of a run directory of which one cell crashed, and luigi's output."""
    folder = tmp_path_factory.mktemp("study")
    calls = Calls(folder / "calls", ["--local-scheduler"], TINY | {"repeats": 1})
    # A process of the host that no file may name: a program that somebody else runs.
    program = folder / "canary-5f3a9c-process"
    program.symlink_to(sys.executable)
    other = subprocess.Popen([program, "-c", "import time; time.sleep(600)"])
    try:
        calls.sabotage("pipeline_gpu0_numa0_vit0x0x0_again")
        done = subprocess.run(
            calls.command(), cwd=calls.folder, env=calls.environment() | SECRETS, capture_output=True, timeout=800
        )
    finally:
        other.kill()
        other.wait()
    assert done.returncode == 30, done.stderr[-2000:]
    files = {str(path.relative_to(folder)): _content(path) for path in (folder / "calls/outputs").rglob("*")}
    (grid,) = (folder / "calls/outputs").rglob("grid.json")
    with zipfile.ZipFile(bundle(grid.parent, folder / "study.zip").path) as archive:
        files |= {f"bundle/{name}": archive.read(name) for name in archive.namelist()}
    return {name: content for name, content in files.items() if content} | {"luigi": done.stdout + done.stderr}


def _content(path: Path) -> bytes:
    if not path.is_file() or path.suffix == ".nsys-rep":
        return b""
    raw = path.read_bytes()
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def test_every_kind_of_file_was_searched(searched):
    endings = {Path(name).suffix for name in searched}
    assert endings >= {".json", ".yaml", ".html", ".md", ".csv", ".db", ".stdout", ".stderr", ".log", ".sqlite"}, (
        endings
    )
    assert b"sabotaged for a test" in b"".join(searched.values())


def test_no_file_holds_environment_values_users_or_processes(searched):
    assert [name for name, content in searched.items() if b"canary-5f3a9c" in content] == []


def test_no_other_variable_is_named_either(searched):
    found = [(name, each) for name, content in searched.items() for each in NAMES if each.encode() in content]
    assert found == []


def test_a_bundle_has_no_path_and_no_command_line(searched):
    parts = {name: content for name, content in searched.items() if name.startswith("bundle/")}
    assert {Path(name).suffix for name in parts} >= {".html", ".json", ".sqlite", ".yaml"}
    private = (str(Path(sys.executable).parent).encode(), b"/calls/outputs", b"--cell")
    assert [name for name, content in parts.items() if any(text in content for text in private)] == []


def test_the_host_is_named_where_it_is_meant_to_be(searched):
    """The search can find something: records tell on purpose which host they are of."""
    named = [name for name, content in searched.items() if platform.node().encode() in content]
    assert any(name.endswith("topology.json") for name in named)
    assert not any(name.endswith(".sqlite") for name in named)


def test_what_a_real_study_writes_has_the_shape_that_is_declared(searched):
    found = [content for name, content in searched.items() if name.endswith("results.json")]
    # That of the run directory, and that of its bundle.
    assert [json.loads(content)["damaged"] for content in found] == [[], []]
