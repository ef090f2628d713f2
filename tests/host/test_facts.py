from pathlib import Path

import pytest

from bench.host.doctor import gather, try_live
from bench.host.fingerprint import fingerprint
from bench.host.topology import read_topology
from bench.trace.profilers import choose_profiler
from tests.host.conftest import HOSTS


def test_a_recorded_host() -> None:
    facts = gather(HOSTS / "two_sockets")
    assert facts.governors == ("performance",) and facts.numa_balancing == "0"
    # 90 % free and 2 % of page cache, of 256 GiB.
    assert {node: round(free / 2**28) for node, free in facts.node_free_bytes.items()} == {0: 942, 1: 942}
    assert facts.tried.bind_failure is None and len(facts.affinity) == 64


def test_the_live_host() -> None:
    facts = gather()
    assert facts.tried.disk_free_bytes > 0 and facts.affinity
    assert set(facts.node_free_bytes) == {node.id for node in facts.topology.nodes if node.memory_bytes}


def test_the_doctor_sees_the_nsys_that_a_study_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not be on PATH, nor its importer beside it: the traced run finds both in the usual places."""
    nsys, importer = tmp_path / "2025.1.3" / "target-linux-x64" / "nsys", tmp_path / "apart" / "QdstrmImporter"
    for file in (nsys, importer):
        file.parent.mkdir(parents=True)
        file.touch()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bench.host.fingerprint.INSTALLATIONS", (str(nsys),))
    monkeypatch.setattr("bench.host.fingerprint.IMPORTERS", ())
    topology = read_topology(HOSTS / "two_sockets")
    assert choose_profiler("auto", "cuda") == "nsys" and fingerprint(topology)["nsys"] == "2025.1.3"
    tried = try_live(topology, tmp_path)
    assert tried.nsys == str(nsys) and not tried.nsys_importer
    monkeypatch.setattr("bench.host.fingerprint.IMPORTERS", (str(importer),))
    assert try_live(topology, tmp_path).nsys_importer
