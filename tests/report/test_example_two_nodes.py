from pathlib import Path

from bench.report.text import SYNTHETIC
from bench.storage import read_json
from tests.results.example_two_nodes import FOLDER, make_example


def test_the_committed_example_is_what_its_script_makes(tmp_path):
    """But for figures in the last digits: results of other versions of scipy."""
    made = make_example(tmp_path / "example")
    kept = read_json(FOLDER / "results.json")
    assert [cell["name"] for cell in kept["cells"]] == [cell["name"] for cell in made["cells"]]
    assert [p["verdict"] for p in kept["penalties"]] == [p["verdict"] for p in made["penalties"]]
    assert sorted(file.name for file in FOLDER.iterdir()) == sorted(
        file.name for file in (tmp_path / "example").iterdir()
    )


def test_every_page_says_that_nothing_was_measured():
    page = (FOLDER / "report.html").read_text()
    # At the top, and in the line that stands on every printed page.
    assert page.count(SYNTHETIC) == 2
    assert SYNTHETIC in (FOLDER / "report.md").read_text()
    assert "Synthetic GPU" in page and "synthetic-host" in page


def test_no_link_leads_to_a_file_that_is_not_kept():
    import re

    page = (FOLDER / "report.html").read_text()
    there = {file.name for file in Path(FOLDER).iterdir()}
    assert set(re.findall(r'href="([^"#:]+)"', page)) <= there


def test_the_made_up_numbers_do_not_contradict_each_other():
    results = read_json(FOLDER / "results.json")
    assert results["windows_s"] < results["busy_s"] <= results["duration_s"]
    both = {
        (link["gpu"], link["mem_node"]): max(
            copy["median_gb_s"] for copy in link["copies"] if copy["direction"] == "both"
        )
        for link in results["links"]
    }
    for cell in results["cells"]:
        for copied in cell["bytes_per_batch"].values():
            gb_s = cell["throughput_samples_s"] * copied / cell["settings"]["batch_size"] / 1e9
            assert gb_s <= both[cell["gpu"], cell["mem_node"]]
