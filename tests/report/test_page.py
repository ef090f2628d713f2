import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from bench.analysis.load import load
from bench.errors import StudyError
from bench.report.anchors import ANCHORS
from bench.report.build import make_report
from bench.report.page import render
from tests.run_directories import edit_study

PUBLISHED = [anchor.url for anchor in ANCHORS]
HOSTILE = "<script>alert('x')</script><img src=//evil.example onerror=alert(1)>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    """Tags, ids, links and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        if "id" in attributes and tag not in ("path", "clippath"):
            self.ids.append(attributes["id"])
        if tag == "a":
            self.links.append(attributes.get("href") or attributes.get("xlink:href"))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split()).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def numa_page(numa_run):
    make_report(numa_run, "test")
    return (numa_run / "report.html").read_text()


def page_of(path):
    make_report(path, "test")
    return Page((path / "report.html").read_text())


def test_every_link_has_a_target(numa_run, numa_page):
    page = Page(numa_page)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert unquote(link[1:]) in page.ids, link
        elif link not in PUBLISHED:
            assert (numa_run / unquote(link)).is_file(), link


def test_every_run_is_linked_with_its_record_and_logs(numa_run, numa_page):
    links = set(Page(numa_page).links)
    for record in (numa_run / "runs").glob("*.json"):
        assert f"runs/{record.name}" in links
        assert {f"logs/{record.stem}.stdout", f"logs/{record.stem}.stderr"} <= links


def test_the_page_asks_no_network_for_anything(numa_page):
    """A reader may open the sources of published losses, which are plain links."""
    found = re.findall(r"""(?:src|href)=["']((?:https?:)?//[^"']*)""", numa_page)
    assert set(found) == set(PUBLISHED)
    assert numa_page.count('rel="noopener noreferrer"') == len(found)
    assert "@import" not in numa_page and "url(http" not in numa_page
    assert Page(numa_page).tags.count("script") == 0


def test_the_first_screen_has_the_answer(numa_page):
    text = Page(numa_page).text
    assert "GPU 2 run on node 2" in text
    assert "333 of 333 runs with proved placement" in text
    assert "45 of 48 cells ok" in text


def test_failures_have_reason_advice_and_log(numa_page):
    text = Page(numa_page).text
    assert "CUDA out of memory: 2.1 GiB asked for, 0.4 GiB free" in text
    assert "To do: reduce batch_size or memory_size_mb" in text
    assert "torch.OutOfMemoryError: CUDA" in text


def test_the_method_is_there(numa_page):
    text = Page(numa_page).text
    for fact in ("2025.3.2", "6.1.0-synthetic", "--cpunodebind=", "seed 0", "median of at least 9 windows"):
        assert fact in text


def test_hostile_text_is_shown_as_text(quick_run):
    edit_study(quick_run, question=HOSTILE)
    for file in (quick_run / "runs").iterdir():
        record = json.loads(file.read_text())
        record |= {"status": "crashed", "reason": HOSTILE, "advice": HOSTILE, "log_tail": [HOSTILE],
                   "fingerprint": {"host": HOSTILE, "cpu": HOSTILE}, "command": [HOSTILE], "result": None}  # fmt: skip
        file.write_text(json.dumps(record))
    (quick_run / "topology.json").unlink()
    grid = json.loads((quick_run / "grid.json").read_text())
    page = page_of(quick_run)
    assert "script" not in page.tags and "img" not in page.tags
    assert page.text.count("<script>alert('x')</script>") >= 6
    assert "{{ 7*7 }}" in page.text
    assert len(grid["cells"]) == 3


def test_a_cell_name_that_is_no_file_name_is_refused(quick_run):
    grid = json.loads((quick_run / "grid.json").read_text())
    odd = 'pipeline_gpu0_numa0_vit0x0x0 #?"<'
    text = json.dumps(grid).replace('"pipeline_gpu0_numa0_vit0x0x0"', json.dumps(odd))
    (quick_run / "grid.json").write_text(text)
    with pytest.raises(StudyError, match="matching regex"):
        page_of(quick_run)


def test_one_run_claims_no_uncertainty(quick_run):
    text = page_of(quick_run).text
    assert "1 run a cell: uncertainty unknown" in text
    assert "95 % interval" not in text and "±" not in text


def test_the_cpu_device_is_named_on_every_printed_page(quick_run):
    text = page_of(quick_run).text
    assert text.count("CPU device: no GPU was measured") >= 2


def test_an_unbound_study_says_so(quick_run):
    grid = (quick_run / "grid.json").read_text().replace('"binding": "numactl"', '"binding": "none"')
    (quick_run / "grid.json").write_text(grid)
    text = page_of(quick_run).text
    assert "Nothing was bound" in text
    assert "proved placement" not in text


def test_sections_without_data_are_left_out(quick_run):
    page = page_of(quick_run)
    assert {"map", "penalty", "scaling", "settings", "failures", "use"}.isdisjoint(page.ids)
    assert {"answer", "throughput", "stages", "cells", "runs", "method"} <= set(page.ids)


@pytest.mark.parametrize(
    ("retention", "text"),
    [("none", "the traces were not kept (retention: none)"), ("keep", "nsys_reports/ has no exports (.sqlite)")],
)
def test_states_why_there_is_no_timeline(quick_run, retention, text):
    edit_study(quick_run, retention=retention)
    page = page_of(quick_run)
    assert "timeline" in page.ids and f"No timeline: {text}" in page.text


def test_a_run_in_doubt_has_its_reason_and_a_link(quick_run):
    file = quick_run / "runs" / "pipeline_gpu0_numa0_vit0x0x0_r1.json"
    record = json.loads(file.read_text())
    record["result"]["certificate"] = {
        "verdict": "unproved",
        "reasons": [{"kind": "pages_unknown", "text": "pages of the input ring: -14"}],
    }
    file.write_text(json.dumps(record | {"fingerprint": record["fingerprint"] | {"driver": "999"}}))
    page = page_of(quick_run)
    assert "5 of 6 runs with proved placement" in page.text
    assert "placement not proved pages of the input ring: -14" in page.text
    assert "driver: 999, in the study: none" in page.text
    assert page.links.count(f"#run-{file.stem}") == 2 and f"run-{file.stem}" in page.ids


def test_of_the_preflight_only_warnings_are_shown(quick_run):
    warned = {"state": "warning", "fact": "on", "remedy": "`sysctl kernel.numa_balancing=0`"}
    checks = [{"name": "mig", "state": "ok", "fact": "off", "remedy": ""}, {"name": "numa_balancing"} | warned]
    (quick_run / "preflight.json").write_text(json.dumps({"checks": checks}))
    page = page_of(quick_run)
    assert "numa balancing on" in page.text and "sysctl kernel.numa_balancing=0" in page.text
    assert "code" in page.tags and "mig off" not in page.text


@pytest.fixture(scope="module")
def placed_page(placed_run):
    make_report(placed_run, "test")
    return Page((placed_run / "report.html").read_text())


def test_the_first_screen_says_which_model_only_copies(placed_page):
    assert "vit0x0x0 only copies. What the terms mean" in placed_page.text and "#glossary" in placed_page.links


def test_a_split_placement_is_predicted_and_split(placed_page):
    assert {"penalty", "settings", "limits", "perturbation"} <= set(placed_page.ids)
    for text in ("Predicted and observed", "as predicted", "CPU part and memory part",
                 "CUDA graph matters, against off", "Three clocks",
                 "all agree", "synthetic_gemm<float>"):  # fmt: skip
        assert text in placed_page.text, text


def test_every_link_of_the_larger_page_has_a_target(placed_page, placed_run):
    assert len(placed_page.ids) == len(set(placed_page.ids))
    for link in set(placed_page.links).difference(PUBLISHED):
        assert unquote(link[1:]) in placed_page.ids if link.startswith("#") else (placed_run / unquote(link)).is_file()


@pytest.fixture
def untraced_page(quick_run):
    for file in (quick_run / "runs").glob("*_traced.json"):
        file.unlink()
    for folder in ("nsys_reports", "latency"):
        for file in (quick_run / folder).iterdir():
            file.unlink()
    return page_of(quick_run)


def test_a_study_without_traces_states_so_once(untraced_page):
    text = untraced_page.text
    assert "Not complete: of 3 cells, 3 not traced. No run was traced:" in text
    # The note and its printed line, both tables, what is missing, the runs.
    assert text.count("not traced") == 2 + 3 + 3 + 1 + 3
    assert text.count("No run was traced") == 2
    assert "missing" not in text and "Missing" in untraced_page.text.split("All cells")[-1]
    assert "H2D GB/s" not in text and "efficiency regime" not in text and "in situ" not in text
    assert "samples/s spread p50 p99 solo" in text


def test_18_disturbed_runs_are_one_line(quick_run):
    for number, file in enumerate(sorted((quick_run / "runs").glob("*_r1.json"))):
        record = json.loads(file.read_text())
        reason = {"kind": "other_processes", "text": f"other processes on the GPU: {1000 + number}"}
        record["monitor"] = {"disturbed": [reason]}
        file.write_text(json.dumps(record))
    assert page_of(quick_run).text.count("disturbed other processes used the GPU") == 1


def test_a_page_in_another_folder_links_to_its_files_only(quick_run, tmp_path):
    results = make_report(quick_run, "test")
    page = Page(render(load(quick_run), results, beside=tmp_path))
    assert all(link.startswith("#") for link in page.links)


def test_penalties_come_before_settings_when_there_are_any(placed_page):
    assert placed_page.text.index("Penalty") < placed_page.text.index("Settings")


def test_the_limits_have_the_regime_and_the_copy_state(placed_page):
    section = placed_page.text.split("Limits: what sets the pace", 1)[1].split("Timeline of a few batches", 1)[0]
    for text in ("exposed", "hidden", "CPU sets the pace", "launch-bound", "transfer-bound"):
        assert text in section.split("the CPU sets the pace instead.", 1)[1], text
    assert "memory-bound" not in placed_page.text and "built-in" not in placed_page.text
