from pathlib import Path

from bench.host.facts import gather, has_importer
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


def test_the_importer_is_looked_for_where_nsys_looks(tmp_path: Path) -> None:
    target, beside = tmp_path / "target-linux-x64", tmp_path / "host-linux-x64"
    target.mkdir()
    beside.mkdir()
    (target / "nsys").touch()
    (tmp_path / "bin").symlink_to(target)
    assert not has_importer(tmp_path / "bin" / "nsys")
    (beside / "QdstrmImporter").touch()
    assert has_importer(tmp_path / "bin" / "nsys")
