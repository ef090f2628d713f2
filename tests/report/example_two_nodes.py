"""docs/reference/example_two_nodes: what the report of a host with two nodes looks like. Every number is made up.

python -m tests.report.example_two_nodes makes it again, and with Chromium the README's picture of its first screen.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from msgspec.structs import replace
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.analysis.load import load
from bench.analysis.trust import summarise
from bench.records.base import plain
from bench.records.results import Results
from bench.report.build import make_report
from bench.report.markdown import markdown
from bench.report.page import render
from bench.report.text.fill import with_text
from bench.storage import write_json, write_text
from tests.browser import open_browser
from tests.run_directories import build_run_directory, topology_json

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "example_two_nodes"
KEPT = ("study.yaml", "topology.json", "results.csv")
PICTURE = FOLDER.parents[1] / "images" / "example_two_nodes.png"
# In the picture: which first screen it is of.
SHOWS = "first screen"
MADE_AT = "2026-11-22T20:00:00+00:00"


def make_example(folder: Path) -> Results:
    """The grid of NumaStudy on four GPUs and two nodes; GPUs 0 and 1 are near node 0, the others near node 1."""
    with tempfile.TemporaryDirectory() as temporary:
        run = build_run_directory(
            Path(temporary, "synthetic", "example_two_nodes"),
            "numa_locality_study",
            {"name": "example_two_nodes", "numa_nodes": [0, 1], "repeats": 6},
            topology=topology_json(gpus=4, near=(0, 0, 1, 1), nodes=2),
            links=True,
        )
        topology = json.loads((run / "topology.json").read_bytes())
        topology["fingerprint"]["synthetic"] = "made up by tests/report/example_two_nodes.py"
        write_json(run / "topology.json", topology)
        data = load(run)
        made = replace(make_report(run, "synthetic"), created_at=MADE_AT, run_directory="synthetic runs")
        # Its hints name the run directory.
        results = with_text(made)
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copy(run / name, folder / name)
        write_text(folder / "report.md", markdown(results))
        write_json(folder / "experiment_summary.json", plain(summarise(results)))
        write_json(folder / "results.json", plain(results))
        # Neither runs nor logs are kept: the page links to the files beside it.
        write_text(folder / "report.html", render(data, results, beside=folder))
    return results


def first_screen(report: Path) -> str:
    """What identifies the first screen of a page: a picture of it says which one it shows."""
    page = report.read_text()
    return hashlib.sha256(page[page.index("<header>") : page.index("</nav>")].encode()).hexdigest()


def take_picture(report: Path, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as browser:
        browser.resize(1280, 900)
        browser.open(report.as_uri())
        browser.screenshot(picture)
    facts = PngInfo()
    facts.add_text(SHOWS, first_screen(report))
    with Image.open(picture) as shown:
        shown.save(picture, pnginfo=facts, optimize=True)


if __name__ == "__main__":
    make_example(FOLDER)
    take_picture(FOLDER / "report.html", PICTURE)
    print(FOLDER, PICTURE)
