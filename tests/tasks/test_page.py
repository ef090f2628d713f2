"""luigi's page in a real Chromium while a real study runs against `numastudy ui`."""

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.workload.progress import Phase, read_progress
from tests.browser import Browser, open_browser
from tests.ports import free_port
from tests.tasks.study_calls import Calls
from tests.ui.test_serve import Servers, ui

GOOD, BAD = "pipeline_gpu0_numa0_vit0x0x0", "pipeline_gpu0_numa0_vit0x0x0_again"
FAMILIES = {"Study", "StudyCheck", "StudyReport", "RunPipeline", "ExportSqlite", "ExtractLatency", "Probe"}
# What a user sees of each task in the list, the colour of its state as it is painted.
ROWS = """
return $('#taskTable').DataTable().rows({search: 'applied'}).nodes().toArray().map(row => {
    const cells = row.querySelectorAll('td'), link = row.querySelector('a[target=_blank]');
    return {
        state: cells[0].innerText.trim(), family: cells[1].innerText, details: cells[2].innerText,
        colour: getComputedStyle(cells[0].querySelector('.status-icon')).backgroundColor, link: link ? link.href : '',
    };
})
"""
CLICK = """
for (const row of $('#taskTable').DataTable().rows().nodes().toArray()) {
    const cells = row.querySelectorAll('td'), button = row.querySelector('button.' + arguments[2]);
    if (button && cells[1].innerText === arguments[0] && cells[2].innerText.includes(arguments[1])) {
        $(button).trigger('click'); return true;
    }
}
return false
"""
MESSAGE = """
const modal = document.querySelector('#statusMessageModal');
const bar = modal.querySelector('.progress-bar');
return bar ? {text: modal.querySelector('pre').textContent, percent: Number(bar.getAttribute('aria-valuenow'))} : null
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Page:
    browser: Browser
    address: str

    def rows(self) -> list[dict[str, Any]]:
        """The list of tasks, loaded again: it does not refresh itself."""
        self.browser.open("about:blank")
        self.browser.open(f"{self.address}/static/visualiser/index.html#length=100")
        return until(lambda: self.browser.run(ROWS) if self._loaded() else None, "the list of tasks")

    def _loaded(self) -> bool:
        return self.browser.run("return !!window.jQuery && $.fn.DataTable && $('#taskTable tbody tr').length > 0")

    def of(self, family: str, details: str = "") -> list[dict[str, Any]]:
        return [row for row in self.rows() if row["family"] == family and details in row["details"]]

    def click(self, family: str, details: str, button: str) -> bool:
        return self.browser.run(CLICK, family, details, button)

    def message(self) -> dict[str, Any]:
        return self.browser.run(MESSAGE)


def until(found: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"not seen within {seconds:.0f} s: {what}")


def workload(calls: Calls) -> tuple[int, Path] | None:
    """Process id and progress file of the child that runs a cell of this study."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_text().split("\0")
        except OSError:
            continue
        # Not one of another test, which may measure a group.
        if "bench.workload" in line and "--cell" in line and str(calls.folder) in line[line.index("--cell") + 1]:
            return int(entry.name), Path(line[line.index("--progress") + 1])
    return None


@contextmanager
def halted(pid: int) -> Iterator[None]:
    """Time passes, but no batch ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    folder = tmp_path / "work"
    folder.mkdir()
    with ui(folder, (free_port(), free_port())) as servers:
        # The page's links lead to where this test serves its outputs.
        config = tmp_path / "own.cfg"
        config.write_text(f"[numastudy]\noutputs_url = {servers.outputs}\n")
        monkeypatch.setenv("LUIGI_CONFIG_PATH", str(config))
        yield servers


@pytest.fixture
def page(tmp_path: Path, servers: Servers) -> Iterator[Page]:
    with open_browser(tmp_path / "profile", 1600, 1000) as browser:
        yield Page(browser, servers.tasks)


@pytest.fixture
def calls(tmp_path: Path, servers: Servers) -> Calls:
    port = servers.tasks.rpartition(":")[2]
    calls = Calls(tmp_path / "work", ["--scheduler-host", "127.0.0.1", "--scheduler-port", port])
    # Long enough to be watched.
    calls.study["window_s"] = 0.8
    calls.write()
    calls.sabotage(BAD)
    return calls


@pytest.mark.timeout(1200)
def test_page_shows_a_study_from_first_run_to_repair(page: Page, calls: Calls, tmp_path: Path) -> None:
    with (tmp_path / "first.log").open("w") as log:
        luigi = subprocess.Popen(
            calls.command(), cwd=calls.folder, env=calls.environment(), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        watch_the_percentage(page, calls, tmp_path)
        assert luigi.wait(600) == 30, (tmp_path / "first.log").read_text()
    finally:
        luigi.kill()
        luigi.wait()
    failures_are_red_with_their_reason(page, tmp_path)
    report_is_linked(page)

    calls.repair(BAD)
    second = calls.run()
    assert second.returncode == 0, second.stderr
    rows = page.rows()
    keep(page, tmp_path, "resumed")
    assert {row["state"] for row in rows} == {"DONE"}
    checks = [row for row in rows if row["family"] == "CellCheck"]
    assert len(checks) == 2 and all(is_green(row) for row in checks)


def watch_the_percentage(page: Page, calls: Calls, tmp_path: Path) -> None:
    pid, progress = until(lambda: workload(calls), "a workload")
    until(lambda: measured_batches(progress) > 0, "the measured window")
    # Looks take time, which a run on a busy machine would not wait for.
    with halted(pid):
        counted = read_progress(progress.read_bytes())
        share = counted[0] / counted[1]
        assert counted[2] == Phase.MEASURING and 0 < share < 1
        running = until(lambda: [row for row in page.of("RunPipeline") if row["state"] == "RUNNING"], "a running task")
        assert {row["family"] for row in page.rows()} >= FAMILIES
        assert len(running) == 1 and f"cell={GOOD}" in running[0]["details"]
        assert running[0]["link"].endswith(f"/logs/{GOOD}_r1.stderr")
        until(lambda: page.rows() and page.click("RunPipeline", f"cell={GOOD}", "statusMessage"), "its message")
        texts = [f"repeat 1/1, measuring {again}{share:.0%}".replace("%", " %") for again in ("", "again ")]
        # Text and percentage come by two calls: the page may show one before the other.
        percents = [str(int(15 + 80 * share))]
        until(lambda: page.message()["text"] in texts, "the halted run's message")
        until(
            lambda: str(page.message()["percent"]) in percents or "again" in page.message()["text"],
            f"its percentage {percents}",
        )
        keep(page, tmp_path, "running")
        still = page.message()
        # The page asks twice a second, and gets a new message once a second.
        time.sleep(2.5)
        assert page.message() == still and read_progress(progress.read_bytes()) == counted
    until(lambda: goes_on(still, page.message()), "the batches going on")


def measured_batches(progress: Path) -> int:
    done, _, phase = read_progress(progress.read_bytes())
    return done if phase == Phase.MEASURING else 0


def goes_on(before: dict, now: dict) -> bool:
    return now["text"] != before["text"] and (now["percent"] > before["percent"] or "again" in now["text"])


def failures_are_red_with_their_reason(page: Page, tmp_path: Path) -> None:
    rows = page.rows()
    failed = [row for row in rows if row["state"] == "FAILED"]
    assert [row["family"] for row in failed] == ["CellCheck", "CellCheck"]
    assert all(f"cell={BAD}" in row["details"] for row in failed)
    assert all(is_red(row) for row in failed)
    keep(page, tmp_path, "failed")
    assert page.click("CellCheck", "repeat=1", "showError")
    reason = until(lambda: page.browser.run("return $('#errorModal pre').first().text()"), "the reason")
    assert reason.startswith(f'{BAD}_r1: crashed: exit code 7: "sabotaged for a test"')
    assert "Traceback" not in reason
    time.sleep(0.5)
    keep(page, tmp_path, "reason")
    (first,) = [row for row in failed if "repeat=1" in row["details"]]
    with urllib.request.urlopen(first["link"], timeout=240) as log:
        assert "sabotaged for a test" in log.read().decode()
    # The run itself is done: a failed cell is a result. Its message names the outcome.
    assert page.rows() and page.click("RunPipeline", f"cell={BAD}, repeat=1", "statusMessage")
    last = until(lambda: page.message()["text"], "the last message")
    assert last == 'repeat 1/1: crashed: exit code 7: "sabotaged for a test" (2 attempts)'


def report_is_linked(page: Page) -> None:
    (report,) = page.of("StudyReport")
    assert report["state"] == "DONE" and is_green(report)
    page.browser.open(report["link"])
    assert "sabotaged for a test" in page.browser.run("return document.body.textContent")


def is_red(row: dict[str, Any]) -> bool:
    r, g, b = _rgb(row)
    return r > 1.5 * max(g, b)


def is_green(row: dict[str, Any]) -> bool:
    r, g, b = _rgb(row)
    return g > 1.2 * max(r, b)


def _rgb(row: dict[str, Any]) -> list[int]:
    """Of the task's sign, as Chromium reports it: rgb(0, 166, 90)."""
    return [int(number) for number in re.findall(r"\d+", row["colour"])][:3]


def keep(page: Page, folder: Path, name: str) -> None:
    """PAGE_SCREENSHOTS=folder keeps them."""
    folder = Path(os.environ.get("PAGE_SCREENSHOTS", folder))
    folder.mkdir(parents=True, exist_ok=True)
    page.browser.screenshot(folder / f"page_{name}.png")
