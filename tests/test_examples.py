"""The examples do what they say, on the cpu device."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from bench.records.metric import Read
from bench.run.metrics import read_metrics
from bench.study.load import load_study

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_example_is_a_study(file):
    assert load_study(file).question.endswith("?")


@pytest.fixture
def port():
    """Of the example server, with a model of one layer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    options = ["--layers", "1", "--width", "64", "--max-batch", "4", "--device", "cpu"]
    server = subprocess.Popen([sys.executable, "server.py", "--port", str(number), *options], cwd=EXAMPLES)
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{number}/health", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    yield number
    server.kill()
    server.wait()


@pytest.mark.slow
def test_server_answers_its_client(port, tmp_path):
    argv = [sys.executable, "client.py", "--port", str(port), "--requests", "40", "--connections", "3"]
    result = tmp_path / "result.json"
    subprocess.run(
        [*argv, "--warmup", "3"], cwd=EXAMPLES, env={"NUMASTUDY_RESULT": str(result)}, check=True, timeout=120
    )
    measured = read_metrics(Read.JSON, result.read_text())
    assert measured.primary == "requests_s" and set(measured.metrics) == {"requests_s", "median_ms", "p99_ms"}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/infer", b"too short", timeout=30)


def test_server_is_short():
    assert len((EXAMPLES / "server.py").read_text().splitlines()) < 100
