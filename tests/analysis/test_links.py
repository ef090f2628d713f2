import json

import pytest

from bench.analysis.aggregate import alone_gb_s, ceiling, link_entries
from bench.analysis.load import load
from tests.child_results import made_link
from tests.run_directories import build_run_directory, topology_json

NEAR = {0: 0}
CELL = {"gpu": 0, "solo_us": {"h2d": 100.0, "d2h": 50.0}, "bytes_per_batch": {"h2d": 5_000_000, "d2h": 1_000_000}}


def entries(**changed):
    records = {f"gpu0_numa{node}": made_link(0, node, node, NEAR) for node in (1, 0)}
    for record in records.values():
        record["result"] |= changed
    return link_entries(records)


def test_a_ceiling_is_the_best_node_by_nvbandwidths_definition():
    links = entries()
    assert [link["mem_node"] for link in links] == [0, 1]
    assert ceiling(links, [CELL], 0, "h2d").gb_s == 55.0
    assert ceiling(links, [CELL], 0, "h2d").source == "nvbandwidth's definition"


def test_without_that_it_is_the_best_copy_and_then_the_copy_of_a_batch_alone():
    copies = ceiling(entries(nvbandwidth_h2d_gb_s=None), [CELL], 0, "h2d")
    assert copies.gb_s == pytest.approx(55.0, rel=0.01) and "microbenchmarks" in copies.source
    batch = ceiling([], [CELL], 0, "h2d")
    assert (batch.gb_s, batch.source) == (50.0, "the best copy of a batch alone")
    assert ceiling(entries(), [CELL], 1, "h2d") is None
    assert alone_gb_s(CELL, "d2h") == 20.0


def test_a_link_that_failed_is_kept_with_its_reason():
    record = made_link(0, 0, 0, NEAR) | {"status": "oom", "reason": "1 GiB is not there", "result": None}
    (link,) = link_entries({"gpu0_numa0": record})
    assert (link["status"], link["reason"], link["copies"]) == ("oom", "1 GiB is not there", [])


@pytest.fixture
def run(tmp_path):
    study = {"name": "one", "gpu_ids": [0], "numa_nodes": [0, 1], "models": ["vit0x0x0"], "repeats": 2}
    (tmp_path / "one.yaml").write_text(json.dumps(study))
    topology = topology_json(gpus=1, near=(0,), nodes=2)
    return build_run_directory(tmp_path / "run", str(tmp_path / "one.yaml"), topology=topology, links=True)


def test_the_page_shows_them_and_says_what_percentages_refer_to(run, results_of):
    from bench.report.page import render

    results = results_of(run)
    page = render(load(run), results)
    assert [link["name"] for link in results["links"]] == ["gpu0_numa0", "gpu0_numa1"]
    assert 'href="links/gpu0_numa1.json"' in page and "median bandwidth of copies of 512 MiB" in page
    assert "ceiling of the GPU's link: nvbandwidth&#39;s definition" in page
    assert "% of 55.0 GB/s" in page
    for file in (run / "links").iterdir():
        file.unlink()
    page = render(load(run), results_of(run))
    assert "ceiling of the GPU's link: the best copy of a batch alone" in page and 'id="links"' not in page


def test_a_damaged_link_is_named_and_costs_nothing_else(run, results_of):
    (run / "links/gpu0_numa0.json").write_text("{")
    results = results_of(run)
    assert [damage["path"] for damage in results["damaged"]] == ["links/gpu0_numa0.json"]
    assert len(results["links"]) == 1 and results["counts"]["ok"] == 2
