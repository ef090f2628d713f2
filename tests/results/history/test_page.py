import re
from xml.etree import ElementTree

import pytest

from bench.history.database import add_study
from bench.history.page import write_index
from tests.results.history.synthetic import FINGERPRINT, made_results, quiet_rates, rates_of

CELL = "pipeline_gpu0_numa0_vit0x0x0"


@pytest.fixture
def page(tmp_path):
    for number, row in enumerate(quiet_rates(12), 1):
        rates = rates_of(row) | ({CELL: None} if number == 7 else {})
        facts = FINGERPRINT | {"driver": "580.1" if number < 5 else "<b>590"}
        add_study(made_results(tmp_path, number, rates, fingerprint=facts), tmp_path / "history.db")
    return write_index(tmp_path / "history.db").read_text()


def figures(page):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)]


def test_every_cell_has_a_plot_with_every_night(page):
    assert len(figures(page)) == 48
    dots = [svg.findall(".//path")[-1].get("d").count("h0") for svg in figures(page)[1:]]
    assert dots == [12] * 47


def test_a_failed_night_is_a_cross_that_leads_to_its_report(page):
    failed = figures(page)[0]
    (link,) = failed.findall(".//a")
    assert link.get("href") == "numa_locality_study/2026-01-07/01-30-00/report.html"
    assert "crashed killed by SIGSEGV" in "".join(failed.itertext())


def test_host_changes_are_marked_on_the_axis_of_every_plot_and_named(page):
    assert all("the NVIDIA driver was 580.1, is <b>590" in "".join(svg.itertext()) for svg in figures(page))
    assert "<b>A</b> 2026-01-05: the NVIDIA driver was 580.1, is &lt;b&gt;590" in page
    assert "<b>590" not in page


def test_studies_come_newest_first(page):
    days = re.findall(r'<th scope="row"><a href="[^"]*">(\d{4}-\d\d-\d\d)', page)
    assert days[:10] == [f"2026-01-{day:02}" for day in range(12, 2, -1)]
    assert days[10:] == [f"2026-01-{day:02}" for day in range(12, 0, -1)]


def test_one_study_alone_has_a_page(tmp_path):
    add_study(made_results(tmp_path, 1, {CELL: 100.0}), tmp_path / "history.db")
    page = write_index(tmp_path / "history.db").read_text()
    assert "1 study," in page and len(figures(page)) == 1


def test_nothing_is_fetched(page):
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert "<script" not in page


def test_the_plots_of_a_study_measured_once_are_folded(tmp_path, page):
    add_study(made_results(tmp_path, 1, rates_of(quiet_rates(1)[0])), tmp_path / "once" / "history.db")
    once = write_index(tmp_path / "once" / "history.db").read_text()
    assert "<summary>48 cells, measured once</summary>" in once and len(figures(once)) == 48
    assert "measured once" not in page
