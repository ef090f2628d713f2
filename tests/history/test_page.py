import re
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from bench.history.database import add_study
from bench.history.page import into_history, write_index
from tests.history.synthetic import FINGERPRINT, made_results, quiet_rates, rates_of

CELL = "pipeline_gpu0_numa0_vit0x0x0"


@pytest.fixture
def page(tmp_path):
    for number, row in enumerate(quiet_rates(12), 1):
        rates = rates_of(row) | ({CELL: None} if number == 7 else {})
        facts = replace(FINGERPRINT, driver="580.1" if number < 5 else "<b>590")
        add_study(made_results(tmp_path, number, rates, fingerprint=facts), tmp_path / "history.db")
    return write_index(tmp_path / "history.db").read_text()


def figures(page):
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)]


def curve(svg):
    """Path data of the line and of the dots."""
    return [path.get("d") for path in svg.findall("./g[@fill='none']/path")]


def test_every_cell_has_a_plot_with_every_night(page):
    assert len(figures(page)) == 48
    assert [curve(svg)[1].count("h0") for svg in figures(page)] == [11, *[12] * 47]


def test_the_plot_of_one_cell(page):
    """A line from edge to edge in the frame, dates below it, a label for who cannot see it."""
    svg = figures(page)[1]
    line, dots = curve(svg)
    places = [tuple(map(float, place.split())) for place in re.split("[ML]", line) if place]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert (places[0][0], places[-1][0]) == (58, 512)
    assert all(16 <= y <= 112 for _, y in places) and min(y for _, y in places) < max(y for _, y in places)
    assert dots.count("M") == len(places) == 12
    days = [text.text for text in svg.findall("text") if re.match(r"\d{4}-", text.text)]
    assert (days[0], days[-1], len(days)) == ("2026-01-01", "2026-01-12", 5)
    assert re.fullmatch(r"pipeline_\S+: 12 measurements, the last [\d,.]+ samples/s", svg.get("aria-label"))


def test_a_failed_night_is_a_cross_that_links_to_its_report(page):
    failed = figures(page)[0]
    (link,) = failed.findall(".//a")
    assert link.get("href") == "numa_locality_study/2026-01-07/01-30-00/report.html"
    assert "crashed killed by SIGSEGV" in "".join(failed.itertext())
    assert curve(failed)[0].count("M") == 2


def test_host_changes_are_marked_in_every_plot_and_named(page):
    change = "the NVIDIA driver was 580.1, is <b>590"
    assert all(change in "".join(svg.itertext()) for svg in figures(page))
    assert "<b>A</b> 2026-01-05: the NVIDIA driver was 580.1, is &lt;b&gt;590" in page
    assert "<b>590" not in page


def test_studies_come_newest_first(page):
    days = re.findall(r'<th scope="row"><a href="[^"]*">(\d{4}-\d\d-\d\d)', page)
    assert days[:10] == [f"2026-01-{day:02}" for day in range(12, 2, -1)]
    assert days[10:] == [f"2026-01-{day:02}" for day in range(12, 0, -1)]


def test_a_single_study_has_a_page(tmp_path):
    add_study(made_results(tmp_path, 1, {CELL: 100.0}), tmp_path / "history.db")
    page = write_index(tmp_path / "history.db").read_text()
    assert "1 study," in page and len(figures(page)) == 1


def test_nothing_is_fetched(page):
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert "<script" not in page


def test_the_plots_of_a_study_measured_once_are_folded(tmp_path, page):
    (tmp_path / "once").mkdir()
    add_study(made_results(tmp_path, 1, rates_of(quiet_rates(1)[0])), tmp_path / "once" / "history.db")
    once = write_index(tmp_path / "once" / "history.db").read_text()
    assert "<summary>48 cells, measured once</summary>" in once and len(figures(once)) == 48
    assert "measured once" not in page


def test_a_study_with_overrides_is_apart(tmp_path):
    """Neither a gap in the usual series nor a second plot of the same title there."""
    usual = {CELL: 100.0, CELL.replace("0x0x0", "32x2x128"): 50.0, CELL.replace("0x0x0", "32x6x512"): 20.0}
    once = {CELL: 100.0, CELL.replace("0x0x0", "16x8x768"): 10.0}
    for number, rates in enumerate((usual, usual, once, usual), 1):
        results = made_results(tmp_path, number, rates)
        if number == 2:  # the same names with another setting
            cells = [replace(cell, key=f"{cell.key} b20", settings=replace(cell.settings, batch_size=20))
                     for cell in results.cells]  # fmt: skip
            results = replace(results, cells=tuple(cells))
        add_study(results, tmp_path / "history.db")
    page = write_index(tmp_path / "history.db").read_text()
    titles = re.findall(r'<section id="numa[^"]*"><h2>([^<]*)', page)
    name = "numa_locality_study on synthetic-host"
    assert titles == [name, f"{name}: models vit0x0x0 and vit16x8x768", f"{name}: batch size 20"]
    assert [curve(svg)[1].count("h0") for svg in figures(page)] == [2, 2, 2, 1, 1, 1, 1, 1]
    assert "no longer measured" not in page
    assert re.findall(r"<small>([^<]*)", page) == ["models vit0x0x0 and vit16x8x768", "batch size 20"]


def test_a_list_of_models_that_grows_goes_on(tmp_path):
    few = {CELL: 100.0, CELL.replace("0x0x0", "32x2x128"): 50.0}
    for number, rates in enumerate((few, few | {CELL.replace("0x0x0", "32x6x512"): 20.0}), 1):
        add_study(made_results(tmp_path, number, rates), tmp_path / "history.db")
    page = write_index(tmp_path / "history.db").read_text()
    assert [curve(svg)[1].count("h0") for svg in figures(page)] == [2, 2, 1]


def test_a_finished_study_is_in_the_history_and_on_the_page(tmp_path):
    assert into_history(made_results(tmp_path, 1, {CELL: 100.0}), tmp_path)
    assert (tmp_path / "history.db").is_file()
    assert "vit0x0x0" in (tmp_path / "index.html").read_text()


def test_an_unusable_history_costs_no_study(tmp_path, capsys):
    (tmp_path / "history.db").write_bytes(b"no database" * 100)
    assert not into_history(made_results(tmp_path, 1, {CELL: 100.0}), tmp_path)
    output = capsys.readouterr().out
    assert output.startswith("not in the history:")
    assert "numastudy history --add" in output
