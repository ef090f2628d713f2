"""The examples do what they say, on the cpu device."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from bench.records.metric import Read
from bench.run.metrics import read_metrics
from bench.study.load import load_study, read_study
from bench.study.yaml_text import parse_yaml
from tests.ports import free_port

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_example_is_a_study(file):
    assert load_study(file).question.endswith("?")


def studies_of_the_docs() -> list[dict[str, object]]:
    blocks = re.findall(r"```yaml\n(.*?)```", (EXAMPLES.parent / "docs" / "own_workloads.md").read_text(), re.DOTALL)
    return [parse_yaml(block, Path("docs"), aliases=False) for block in blocks if block.startswith("name:")]


@pytest.mark.parametrize("values", studies_of_the_docs(), ids=lambda values: values["name"])
def test_study_of_the_docs_is_one(values):
    assert read_study(values, "docs").command


def test_torchrun_of_the_docs_has_these_options():
    (command,) = [values["command"] for values in studies_of_the_docs() if values["name"] == "train"]
    for argv in (command["run"], command["variants"]["near"]["run"]):
        assert argv[0] == "torchrun"
        parsed = get_args_parser().parse_args(argv[1:])
        assert (parsed.nproc_per_node, parsed.standalone, parsed.training_script) == ("8", True, "train.py")
    assert parsed.numa_binding == "node"


@pytest.fixture(scope="module")
def server():
    """The example server and its port, with a model of one layer."""
    number = free_port()
    options = ["--layers", "1", "--width", "64", "--max-batch", "4", "--device", "cpu"]
    server = subprocess.Popen([sys.executable, "server.py", "--port", str(number), *options], cwd=EXAMPLES)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{number}/health", timeout=60).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        yield server, number
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_server_answers_its_client(server, tmp_path):
    _, port = server
    argv = [sys.executable, "client.py", "--port", str(port), "--requests", "40", "--connections", "3"]
    result = tmp_path / "result.json"
    subprocess.run(
        [*argv, "--warmup", "3"], cwd=EXAMPLES, env={"NUMASTUDY_RESULT": str(result)}, check=True, timeout=600
    )
    measured = read_metrics(Read.JSON, result.read_text())
    assert measured.primary == "requests_s" and set(measured.metrics) == {"requests_s", "median_ms", "p99_ms"}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/infer", b"too short", timeout=240)


@pytest.mark.slow
def test_connections_open_while_the_server_accepts_none(server):
    """The kernel opens them: by default the 7th would wait, and the last of many are reset."""
    process, port = server
    process.send_signal(signal.SIGSTOP)
    try:
        with ExitStack() as opened:
            for _ in range(64):
                opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
    finally:
        process.send_signal(signal.SIGCONT)


def test_client_writes_why_a_connection_failed():
    argv = [sys.executable, "client.py", "--port", str(free_port()), "--connections", "3"]
    ended = subprocess.run(argv, cwd=EXAMPLES, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 1
    assert ended.stderr == "3 of 3 connections failed: ConnectionRefusedError(111, 'Connection refused')\n"


def test_server_is_short():
    assert len((EXAMPLES / "server.py").read_text().splitlines()) < 100
