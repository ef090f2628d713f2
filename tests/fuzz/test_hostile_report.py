"""Markup in every text that a run directory holds: the report shows it, and runs none of it. In a real Chromium."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.analysis.load import load
from bench.history.query import history_command
from bench.report.build import make_report
from tests.browser import open_browser
from tests.run_directories import build_run_directory, topology_json

MARKUP = (
    "<script>window.pwned=1</script>\"'><img src=x onerror=window.pwned=1><svg/onload=window.pwned=1>"
    "</style></script><!-- $\\frac{1$ {{ 7 * 7 }} javascript:window.pwned=1 %s "
)
# What a record is found by, or what is one of a few values: the records refuse anything else there.
FIXED = {
    *("run", "cell", "status", "repeat", "sqlite", "direction", "started_at", "start", "mode"),
    *("regime", "bottleneck", "agreement", "verdict", "host_memory", "copy_granularity", "concurrent_load"),
    *("concurrent_placement", "hidden_nodes", "distance", "state"),
}
# Of these the report makes decisions; it must not believe them, but a study needs one that is known.
WORDS = {
    "device",
    "type",
    "profiler",
    "binding",
    "cpus",
    "allowed_cpus",
    "kind",
    "fast",
    "slow",
    "compile_model",
    "dtype",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "outputs/study/2026-01-01/00-00-00"
    study = tmp_path_factory.mktemp("studies") / "study.yaml"
    asked = {"name": "study", "gpu_ids": [0], "numa_nodes": [0, 1], "models": ["vit0x0x0", "vit32x2x128"], "repeats": 3}
    study.write_text(json.dumps(asked | {"question": "Which?"}))
    failed = {"status": "crashed", "reason": "why", "advice": "do", "log_tail": ["last", "words"]}
    build_run_directory(
        path, str(study), topology=topology_json(gpus=1, near=(0,), nodes=2), links=True,
        failures={"pipeline_gpu0_numa1_vit0x0x0_1": failed},
        variants={"graph": {"cuda_graph": True}},
    )  # fmt: skip
    for file in [path / "topology.json", path / "preflight.json", *path.glob("*/*.json"), *path.glob("probe_*.json")]:
        if file.exists():
            file.write_text(json.dumps(_marked(json.loads(file.read_text()))))
    grid = json.loads((path / "grid.json").read_text())
    for cell in grid["cells"]:
        cell |= {
            "gpu_uuid": MARKUP,
            "reason": cell["reason"] and MARKUP,
            "other": MARKUP,
        }
        cell["model"]["name"] += MARKUP
    (path / "grid.json").write_text(json.dumps(grid))
    frozen = yaml.safe_load((path / "study.yaml").read_text())
    (path / "study.yaml").write_text(yaml.safe_dump(frozen | {"question": MARKUP, MARKUP: MARKUP}))
    for log in path.glob("logs/*"):
        log.write_text(MARKUP)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def _marked(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        # Free keys too: of fingerprints, of links, of reasons.
        more = {MARKUP: MARKUP} if key in ("fingerprint", "versions", "reasons") and not isinstance(value, list) else {}
        return {each: _marked(inner, each) for each, inner in value.items()} | more
    if isinstance(value, list):
        return [_marked(inner, key) for inner in value]
    return value if not isinstance(value, str) or key in FIXED | WORDS else value + MARKUP


@pytest.mark.parametrize("page", ["report", "history"])
def test_nothing_of_it_runs(hostile, browser, page):
    file = hostile / "report.html"
    if page == "report":
        assert load(hostile).damaged == ()
        results = make_report(hostile, "test")
        assert len([run for cell in results.cells for run in cell.runs]) > 10
    else:
        history_command(hostile.parents[2], "", "", "", False, (hostile,), True)
        file = hostile.parents[2] / "index.html"
    browser.console(), browser.requests()
    browser.open(file.as_uri())
    assert browser.run("return typeof window.pwned") == "undefined"
    # Nothing of it became an element, and nothing but the page was asked for.
    assert browser.run("return document.querySelectorAll('[onerror],[onload],img[src=x]').length") == 0
    assert browser.run("return [...document.links].filter(a => a.protocol === 'javascript:').length") == 0
    assert browser.requests() == [file.as_uri()]
    assert browser.console() == []
    text = browser.run("return document.body.textContent")
    assert "<script>window.pwned" in text and "{{ 7 * 7 }}" in text


def test_the_check_can_fail(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(f"<link rel=icon href='data:,'><p>{MARKUP}</p>")
    browser.open(page.as_uri())
    assert browser.run("return window.pwned") == 1


def test_markdown_and_terminal_have_no_control_characters(hostile):
    text = (hostile / "report.md").read_text()
    assert "\x1b" not in text and "\x00" not in text
