"""The report of four hosts of one type, one of which has a GPU on a slow link, and of one that did not report."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from bench.analysis.load import load
from bench.cluster.directory import ClusterDirectory, find_or_create
from bench.cluster.report import gather, headline, render, write_cluster_report
from bench.cluster.status import cluster_status
from bench.history.database import history_path, open_history
from bench.history.query import studies
from bench.records.base import convert, plain, read
from bench.records.cluster import ClusterResults, Quantity
from bench.records.results import NoiseClass, Results
from bench.report.build import build_results
from bench.storage import write_json
from bench.study.load import load_study
from tests.run_directories import build_run_directory, topology_json

HOSTS = ["n1", "n2", "n3", "n4"]
OVERRIDES = {"gpu_ids": [0, 1], "repeats": 3}


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClusterDirectory, ClusterResults]:
    outputs = tmp_path_factory.mktemp("outputs")
    study = load_study("quick_test", OVERRIDES)
    directory = find_or_create(study, [*HOSTS, "n<5>"], outputs, "", fresh=False)
    for seed, host in enumerate(HOSTS):
        path = directory.host(host).path
        near = topology_json(gpus=2, near=(0, 0))
        build_run_directory(path, "quick_test", OVERRIDES, topology=near, links=True, seed=seed)
        results = build_results(load(path), "test")
        write_json(path / "results.json", plain(odd(results) if host == "n3" else results))
    return directory, write_cluster_report(directory)


def odd(whole: Results) -> Results:
    """A host whose GPU 1 has half of its lanes, and whose BIOS puts all CPUs into one node."""
    results = plain(whole)
    results["topology"]["gpus"][1]["link_width"] = 8
    results["fingerprint"]["nodes"] = "0: CPUs 0-47"
    for cell in results["cells"]:
        if cell["gpu"] == 1:
            cell["throughput_samples_s"] *= 0.55
            cell["metrics"]["h2d"]["link_gb_s"] *= 0.5
    for link in results["links"]:
        if link["gpu"] == 1:
            link["nvbandwidth_h2d_gb_s"] *= 0.5
    return convert(results, Results)


def test_gpu_with_a_slow_link_is_named(four) -> None:
    _, record = four
    (kind,) = record.types
    assert kind.hosts == tuple(HOSTS)
    outliers = {(one.host, one.quantity) for one in kind.outliers}
    assert outliers == {("n3", Quantity.THROUGHPUT), ("n3", Quantity.H2D_LINK), ("n3", Quantity.H2D_COPIES)}
    assert all("gpu1" in one.cell for one in kind.outliers)
    assert {one.cell for one in kind.outliers if one.quantity is Quantity.THROUGHPUT} == {
        cell.name for cell in record.cells if cell.gpu == 1
    }


def test_host_with_other_settings_is_named(four) -> None:
    _, record = four
    found = {one.setting: one.others for one in record.types[0].differences}
    assert found["GPU 1: PCIe link"] == {"n3": "generation 5, 8 lanes"}
    assert found["the NUMA nodes"] == {"n3": "0: CPUs 0-47"}
    assert len(found) == 2


def test_missing_host_has_a_reason(four) -> None:
    _, record = four
    (missing,) = record.missing
    assert (missing.host, missing.reason) == ("n<5>", "no job was submitted for it: submit the study again")
    assert headline(record) == "4 of 5 hosts reported; n3 is an outlier; configured differently: n3"


@pytest.mark.parametrize(
    "damage",
    [{"cells": ["x"]}, {"topology": None}, {"fingerprint": []}, {"study": 1}, {"counts": {}, "cells": [{"name": "a"}]},
     {"links": [{"name": "a", "small_copy_us": "fast"}]}],
)  # fmt: skip
def test_damaged_results_do_not_affect_other_hosts(four, damage: dict[str, Any]) -> None:
    directory, _ = four
    path = directory.host("n2").results
    whole = path.read_text()
    try:
        write_json(path, json.loads(whole) | damage)
        record = write_cluster_report(directory)
    finally:
        path.write_text(whole)
    assert record.types[0].hosts == ("n1", "n3", "n4")
    assert {one.host for one in record.missing if "results.json of the host" in one.reason} == {"n2"}


def test_cells_of_every_host_are_listed(four) -> None:
    _, record = four
    assert {(cell.host, cell.gpu) for cell in record.cells} == {(host, gpu) for host in HOSTS for gpu in (0, 1)}


def test_page_is_self_contained_and_escapes_names(four) -> None:
    directory, _ = four
    page = directory.report.read_text()
    assert "n&lt;5&gt;" in page and "n<5>" not in page
    assert 'href="hosts/n3/report.html"' in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page


def test_every_host_is_in_the_history_once(four) -> None:
    directory, _ = four
    write_cluster_report(directory)
    with open_history(history_path(directory.host("n1").outputs)) as history:
        listed = studies(history)
    assert sorted(Path(study.run_directory).name for study in listed) == HOSTS


def test_page_has_lowest_and_highest_when_hosts_are_many(four) -> None:
    _, record = four
    (kind,) = record.types
    hosts = tuple(f"n{number}" for number in range(40))
    values = {host: 1000.0 + number for number, host in enumerate(hosts)}
    compared = tuple(structs.replace(one, values=values, outliers={"n39": 0.04}) for one in kind.compared)
    many = structs.replace(record, types=(structs.replace(kind, hosts=hosts, compared=compared),))
    page = render(many)
    assert page.count('<td data-label="highest" class="number warn">1,039</td><td>n39</td>') == len(kind.compared)
    assert page.count("<td>n0</td>") == len(kind.compared)
    assert "<td>n20</td>" not in page


def test_host_in_another_noise_class_is_named(four) -> None:
    """A slow CPU makes a cell launch-bound on one host; the spread of launch-bound cells would hide how slow it is."""
    directory, _ = four
    results = {host: plain(read(directory.host(host).results, Results)) for host in HOSTS}
    random = np.random.default_rng(1)
    for host, found in results.items():
        for cell in found["cells"]:
            if cell["noise_class"] == NoiseClass.LAUNCH_BOUND:
                cell["throughput_samples_s"] *= math.exp(random.normal(0, 0.1))
            elif host == "n2" and cell["gpu"] == 0:
                cell["noise_class"] = NoiseClass.LAUNCH_BOUND
                cell["throughput_samples_s"] *= 0.9
    (kind,) = gather(cluster_status(directory), records(results), {}).types
    assert "pipeline_gpu0_numa0_vit0x0x0" in {one.cell for one in kind.outliers if one.host == "n2"}


def records(results: dict[str, Any]) -> dict[str, Results]:
    return {host: convert(found, Results) for host, found in results.items()}


def test_cell_of_unknown_noise_class_is_judged_by_itself(four) -> None:
    directory, _ = four
    results = {host: plain(read(directory.host(host).results, Results)) for host in HOSTS}

    def scales() -> dict[str, float]:
        (kind,) = gather(cluster_status(directory), records(results), {}).types
        return {one.cell: one.scale for one in kind.compared if one.quantity is Quantity.THROUGHPUT}

    before = scales()
    for number, found in enumerate(results.values()):
        for cell in found["cells"]:
            if "vit0x0x0" in cell["name"]:
                cell["noise_class"] = "unknown"
                cell["throughput_samples_s"] *= 1 + 0.1 * cell["gpu"] * number
    after = scales()
    assert {cell: after[cell] for cell in before if "vit0x0x0" not in cell} == {
        cell: scale for cell, scale in before.items() if "vit0x0x0" not in cell
    }
    assert after["pipeline_gpu0_numa0_vit0x0x0"] < 0.01 < after["pipeline_gpu1_numa0_vit0x0x0"]


def test_quiet_cells_are_not_judged_by_noisy_ones(four) -> None:
    """vit0x0x0 varies by 0.1 % from host to host here, the eager models by some percent."""
    _, record = four
    scale = {one.cell: one.scale for one in record.types[0].compared if one.quantity is Quantity.THROUGHPUT}
    quiet, noisy = scale["pipeline_gpu0_numa0_vit0x0x0"], scale["pipeline_gpu0_numa0_vit32x2x256"]
    assert quiet < 0.005 < noisy
