from pathlib import Path

import pytest

from bench.workload.failures import RunFailure
from bench.workload.host_memory import MIB, cgroup_free_bytes, free_memory, require_host_memory

GIB = 1 << 30


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A made-up /proc and /sys: 8 GiB available, no limits, no nodes."""
    write(tmp_path, "proc/meminfo", f"MemTotal: 99999999 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    return tmp_path


def test_pool_that_fits_is_allowed(host):
    require_host_memory(7 * GIB, None, host)


def test_host_is_too_small(host):
    with pytest.raises(RunFailure, match=r"the host has 8\.00 GiB") as raised:
        require_host_memory(8 * GIB, None, host)
    assert raised.value.status == "oom"
    assert raised.value.advice == "reduce batch_size or memory_size_mb"
    assert "takes 8.00 GiB" in raised.value.what


def test_control_group_is_too_small(host):
    write(host, "proc/self/cgroup", "0::/user/job\n")
    write(host, "sys/fs/cgroup/user/memory.max", str(3 * GIB))
    write(host, "sys/fs/cgroup/user/memory.current", str(2 * GIB))
    write(host, "sys/fs/cgroup/user/memory.stat", f"anon 1\ninactive_file {GIB}\n")
    write(host, "sys/fs/cgroup/user/job/memory.max", "max\n")
    write(host, "sys/fs/cgroup/user/job/memory.current", str(2 * GIB))
    assert cgroup_free_bytes(host) == 2 * GIB
    with pytest.raises(RunFailure, match=r"the control group has 2\.00 GiB"):
        require_host_memory(2 * GIB, None, host)


def test_first_version_of_control_groups(host):
    write(host, "proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/job\n")
    write(host, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", str(3 * GIB))
    write(host, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", str(GIB))
    assert cgroup_free_bytes(host) == 2 * GIB


def test_node_limit_applies_only_if_memory_is_bound(host):
    write(
        host,
        "sys/devices/system/node/node2/meminfo",
        f"Node 2 MemTotal: 999999 kB\nNode 2 MemFree: {512 * 1024} kB\n"
        f"Node 2 Active(file): {96 * 1024} kB\nNode 2 Inactive(file): {32 * 1024} kB\n",
    )
    assert free_memory(2, host)["NUMA node 2"] == 640 * MIB
    require_host_memory(GIB, None, host)
    with pytest.raises(RunFailure, match="NUMA node 2 has 640 MiB"):
        require_host_memory(GIB, 2, host)


def test_this_host_can_be_read():
    assert free_memory(None)["the host"] > 0


def test_without_any_source_nothing_is_refused(tmp_path):
    assert free_memory(0, tmp_path) == {}
    require_host_memory(GIB, 0, tmp_path)
