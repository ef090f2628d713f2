"""The examples do what they say, on the cpu device."""

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
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


@pytest.fixture
def port():
    """Of the example server, with a model of one layer."""
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
        yield number
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_server_answers_its_client(port, tmp_path):
    argv = [sys.executable, "client.py", "--port", str(port), "--requests", "40", "--connections", "3"]
    result = tmp_path / "result.json"
    subprocess.run(
        [*argv, "--warmup", "3"], cwd=EXAMPLES, env={"NUMASTUDY_RESULT": str(result)}, check=True, timeout=600
    )
    measured = read_metrics(Read.JSON, result.read_text())
    assert measured.primary == "requests_s" and set(measured.metrics) == {"requests_s", "median_ms", "p99_ms"}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/infer", b"too short", timeout=240)


def test_server_is_short():
    assert len((EXAMPLES / "server.py").read_text().splitlines()) < 100
