from pathlib import Path

from bench.host.topology import meminfo


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(text)


def test_a_node_and_the_whole_machine_write_it_differently(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal:        4 kB\nActive(file):  2 kB\nHugePages_Total:  7\n")
    write(tmp_path / "sys/devices/system/node/node2/meminfo", "Node 2 MemTotal:   3 kB\nNode 2 Active(file): 1 kB\n")
    assert meminfo(tmp_path, 2) == {"MemTotal": 3072, "Active(file)": 1024}
    assert meminfo(tmp_path, 0) == {"MemTotal": 4096, "Active(file)": 2048}


def test_a_node_that_says_nothing_has_not_the_memory_of_the_machine(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 4 kB\n")
    (tmp_path / "sys/devices/system/node/node1").mkdir(parents=True)
    assert meminfo(tmp_path, 1) == {}
    assert meminfo(tmp_path / "elsewhere", 0) == {}
