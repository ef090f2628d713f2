import re
from html import unescape
from pathlib import Path

from bench.report.anchors import ANCHORS
from bench.report.plots.placement import penalty_pictures
from bench.report.text.answer import answers
from tests.report.made import changed

DOCS = Path(__file__).parents[2] / "docs"
PAGE, EXAMPLE = DOCS / "trust.md", DOCS / "reference/example_two_nodes"


def test_losses_are_those_of_the_figures():
    found = {anchor.name: anchor.text for anchor in ANCHORS}
    assert found == {
        "ROCm": "none",
        "PyTorch": "0.99 % to 9.1 %",
        "vLLM": "33 %",
        "gearshifft": "69 %",
        "srt-slurm": "80 %",
    }


def test_the_page_of_docs_has_the_same_rows():
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \| \[(.+)\]\((.+)\) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(one.text, one.figure, one.conditions, one.source, one.url) for one in ANCHORS]


def test_a_report_has_sources_and_conditions():
    """The committed page is the one that this version makes (test_example_two_nodes.py)."""
    page = unescape((EXAMPLE / "report.html").read_text()).replace("\u00a0", " ")
    assert all(text in page for one in ANCHORS for text in (one.text, one.figure, one.conditions, one.url))


def test_the_axis_names_each_anchor_but_on_the_cpu_device(numa_view):
    (picture,) = penalty_pictures(numa_view, answers(numa_view))
    assert "Published: ROCm none" in picture.alt and all(f">{one.name}" in picture.svg for one in ANCHORS)
    view = changed(numa_view, device="cpu")
    (picture,) = penalty_pictures(view, answers(view))
    assert "Published" not in picture.alt
