from pathlib import Path

import pytest

from bench.host.doctor import gather, try_live
from bench.host.fingerprint import fingerprint
from bench.host.locked_memory import locked_limit
from bench.trace.profilers import choose_profiler
from tests.host.made_hosts import host_root, host_topology


def test_facts_of_a_recorded_host() -> None:
    facts = gather(host_root("two_sockets"))
    assert facts.governors == ("performance",) and facts.numa_balancing == "0"
    # 90 % free and 2 % of page cache, of 256 GiB.
    assert {node: round(free / 2**28) for node, free in facts.node_free_bytes.items()} == {0: 942, 1: 942}
    assert facts.tried.bind_failure is None and len(facts.affinity) == 64


def test_facts_of_the_live_host() -> None:
    facts = gather()
    assert facts.tried.disk_free_bytes > 0 and facts.affinity
    assert set(facts.node_free_bytes) == {node.id for node in facts.topology.nodes if node.memory_bytes}


def test_doctor_finds_the_nsys_that_a_study_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not be on PATH, nor its importer beside it: the traced run finds both in the usual places."""
    nsys, importer = tmp_path / "2025.1.3" / "target-linux-x64" / "nsys", tmp_path / "apart" / "QdstrmImporter"
    for file in (nsys, importer):
        file.parent.mkdir(parents=True)
        file.touch()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bench.host.fingerprint.INSTALLATIONS", (str(nsys),))
    monkeypatch.setattr("bench.host.fingerprint.IMPORTERS", ())
    topology = host_topology("two_sockets")
    assert choose_profiler("auto", "cuda") == "nsys" and fingerprint(topology).nsys == "2025.1.3"
    tried = try_live(topology, tmp_path, 0, locked_limit())
    assert tried.nsys == str(nsys) and not tried.nsys_importer
    monkeypatch.setattr("bench.host.fingerprint.IMPORTERS", (str(importer),))
    assert try_live(topology, tmp_path, 0, locked_limit()).nsys_importer
