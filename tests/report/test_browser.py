"""report.html in a real headless Chromium."""

import json
import os
import time
from pathlib import Path

import pytest

from bench.report.build import make_report
from tests.browser import open_browser
from tests.run_directories import build_run_directory, topology_json

DESKTOP, TABLET, PHONE = (1280, 900), (800, 900), (390, 844)


@pytest.fixture(scope="module")
def report(numa_run):
    make_report(numa_run, "test")
    return numa_run / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def screenshots(tmp_path):
    """REPORT_SCREENSHOTS=folder keeps them."""
    folder = Path(os.environ.get("REPORT_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(browser, report):
    browser.resize(*DESKTOP)
    browser.open(report.as_uri())
    return browser


def test_a_page_has_no_console_error_and_no_request(browser, report):
    browser.console(), browser.requests()
    browser.open(report.as_uri())
    assert browser.requests() == [report.as_uri()]
    assert browser.console() == []


def test_the_browser_reports_errors_and_requests(browser, tmp_path):
    """The check above can fail: a page with an error and a request is seen as such."""
    bad = tmp_path / "bad.html"
    bad.write_text("<link rel=icon href='data:,'><img src='missing.png'><script>throw Error('seen')</script>")
    browser.console(), browser.requests()
    browser.open(bad.as_uri())
    lines, requests = list[str](), list[str]()
    # They come a moment after the page.
    for _ in range(600):
        lines += browser.console()
        requests += browser.requests()
        if any("seen" in line for line in lines) and (tmp_path / "missing.png").as_uri() in requests:
            break
        time.sleep(0.1)
    assert any("seen" in line for line in lines)
    assert (tmp_path / "missing.png").as_uri() in requests


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_fits_the_screen(browser, report, screenshots, size):
    browser.resize(*size, mobile=size == PHONE)
    browser.open(report.as_uri())
    assert browser.run("return document.documentElement.scrollWidth") == size[0]
    browser.screenshot(screenshots / f"report-{size[0]}.png")
    browser.screenshot(screenshots / f"report-{size[0]}-whole.png", whole=True)


@pytest.mark.parametrize("size", [TABLET, PHONE], ids=["tablet", "phone"])
def test_penalties_and_plots_are_seen_whole_on_a_narrow_screen(browser, report, size):
    browser.resize(*size, mobile=size == PHONE)
    browser.open(report.as_uri())
    right = "return [...document.querySelectorAll(arguments[0])].map(each => each.getBoundingClientRect().right)"
    for seen in ("#penalty td", "figure svg", ".map td"):
        assert 0 < max(browser.run(right, seen)) <= size[0], seen
    heights = browser.run("return [...document.querySelectorAll('#penalty tbody tr')].map(row => row.offsetHeight)")
    assert max(heights) < 250


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two axes and eight GPUs at once, with links."""
    folder = tmp_path_factory.mktemp("swept")
    study = {"name": "swept", "gpu_ids": [0, 4], "numa_nodes": [0, 1], "models": ["vit0x0x0", "vit32x2x128"],
             "repeats": 3, "axes": {"concurrent_gpus": [1, 8], "dtype": ["fp32", "bf16"]}}  # fmt: skip
    (folder / "swept.yaml").write_text(json.dumps(study))
    topology = topology_json(gpus=8, near=(0,) * 4 + (1,) * 4, nodes=2)
    run = build_run_directory(folder / "run", str(folder / "swept.yaml"), topology=topology, links=True)
    make_report(run, "test")
    return run / "report.html"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_swept_page_fits_and_its_answer_leads_to_sections(browser, swept, screenshots, size):
    browser.resize(*size, mobile=size == PHONE)
    browser.console()
    browser.open(swept.as_uri())
    assert browser.run("return document.documentElement.scrollWidth") == size[0]
    browser.screenshot(screenshots / f"swept-{size[0]}-whole.png", whole=True)
    targets = browser.run("return [...document.querySelectorAll('.swept a')].map(a => a.getAttribute('href').slice(1))")
    assert targets == ["axis-concurrent_gpus", "axis-dtype"]
    assert all(browser.run("return document.getElementById(arguments[0]) !== null", target) for target in targets)
    assert browser.run("return document.querySelectorAll('#contention svg, #links svg').length") >= 4
    assert browser.console() == []


def test_a_value_of_a_narrow_table_has_the_name_of_its_column(browser, swept):
    """The heads are out of sight there."""
    browser.open(swept.as_uri())
    named = """return [...document.querySelectorAll('.stack td[data-label]')].map(
        cell => [cell.dataset.label, cell.closest('table').tHead.rows[0].cells[cell.cellIndex].textContent])"""
    pairs = browser.run(named)
    some = {
        "penalty (− is a gain)",
        "p50",
        "samples/s",
        "T*",
        "best H2D",
        "timer to trace",
        "slowest / median",
        "change",
    }
    assert {label for label, _ in pairs} >= some
    assert [pair for pair in pairs if pair[0] != pair[1]] == []
    assert browser.run("return document.querySelectorAll('.stack td.number:not([data-label])').length") == 0


def test_answers_and_trust_are_on_the_first_screen(browser, report, tmp_path):
    # With the path of a usual run directory: that of a test, which takes more lines, is as long as TMPDIR.
    usual = tmp_path / "report.html"
    text = report.read_text()
    assert str(report.parent) in text
    usual.write_text(text.replace(str(report.parent), "outputs/numa_locality_study/2026-11-22/18-00-00"))
    browser.resize(*DESKTOP)
    browser.open(usual.as_uri())
    bottom = browser.run("return document.querySelector('.trust').getBoundingClientRect().bottom")
    assert 0 < bottom <= DESKTOP[1]


def test_a_number_is_one_click_from_its_runs(page):
    page.run("document.querySelector('.map a').click()")
    opened = page.run("return document.querySelector('details:has(:target)').open")
    assert opened is True
    assert page.run("return document.querySelector('details:has(:target) a').getAttribute('href')").startswith("runs/")


def test_a_bar_of_a_plot_is_a_link_to_its_runs(page):
    target = page.run("return document.querySelector('#throughput svg a').href.baseVal")
    assert page.run("return document.getElementById(arguments[0]) !== null", target.removeprefix("#"))


def test_plots_have_the_typeface_of_the_page(page):
    script = "return getComputedStyle(document.querySelector(arguments[0])).fontFamily"
    assert page.run(script, "figure svg text") == page.run(script, "body")


def test_prints(page, screenshots):
    page.pdf(screenshots / "report.pdf")
    assert (screenshots / "report.pdf").read_bytes().startswith(b"%PDF")
