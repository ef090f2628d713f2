import re
from pathlib import Path

from PIL import Image

from bench.analysis.load import read_results
from bench.report.text.trust import SYNTHETIC
from tests.report.example_two_nodes import FOLDER, PICTURE, SHOWS, first_screen, make_example


def test_the_committed_example_is_up_to_date(tmp_path):
    """But for figures in the last digits: results of other versions of scipy."""
    made, kept = make_example(tmp_path / "example"), read_results(FOLDER)
    assert [cell.name for cell in kept.cells] == [cell.name for cell in made.cells]
    assert [entry.verdict for entry in kept.penalties] == [entry.verdict for entry in made.penalties]
    assert sorted(file.name for file in FOLDER.iterdir()) == sorted(
        file.name for file in (tmp_path / "example").iterdir()
    )
    pages = [(folder / "report.html").read_text() for folder in (FOLDER, tmp_path / "example")]
    titles = [re.findall(r"<(?:h2|h3|summary|code)>[^<]*", page) for page in pages]
    assert titles[0] == titles[1]


def test_the_picture_is_of_the_committed_page():
    with Image.open(PICTURE) as picture:
        assert picture.info.get(SHOWS) == first_screen(FOLDER / "report.html")


def test_every_page_states_that_nothing_was_measured():
    page = (FOLDER / "report.html").read_text()
    # At the top, and in the line of every printed page.
    assert page.count(SYNTHETIC) == 2
    assert SYNTHETIC in (FOLDER / "report.md").read_text()
    assert "Synthetic GPU" in page and "synthetic-host" in page


def test_links_lead_to_kept_files_only():
    page = (FOLDER / "report.html").read_text()
    there = {file.name for file in Path(FOLDER).iterdir()}
    assert set(re.findall(r'href="([^"#:]+)"', page)) <= there


def test_the_made_up_numbers_are_consistent():
    results = read_results(FOLDER)
    assert results.measured_s < results.busy_s <= results.duration_s
    both = {
        (link.gpu, link.mem_node): max(copy.median_gb_s for copy in link.copies if copy.direction == "both")
        for link in results.links
    }
    for cell in results.cells:
        for copied in (cell.bytes_per_batch.h2d, cell.bytes_per_batch.d2h):
            gb_s = cell.throughput_samples_s * copied / cell.settings.batch_size / 1e9
            assert gb_s <= both[cell.gpu, cell.mem_node]
