"""What the guest runs: topology, binding, not-runnable and certificate code on a real kernel with four nodes.

usage: python3 tests/guest/inside.py HONEST_RUNS      writes $GUEST_RESULTS/results.json
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice, product
from pathlib import Path

import msgspec

from bench.host.binding import bind_prefix, choose_binding, explain_bind_failure, explain_kill, trial_bind
from bench.host.topology import read_topology
from bench.records.base import decode
from bench.records.host import Topology
from bench.records.study import Settings
from bench.study.constraints import why_not_here
from tests.guest.command import check_commands
from tests.guest.where import check_where

ON_CPU = Settings(device="cpu")
STANDIN = str(Path(__file__).with_name("standin.py"))
CPU_NODES, MEMORY_NODES = (0, 1, 2), (0, 1, 2, 3)
PLACEMENTS = tuple(product(CPU_NODES, MEMORY_NODES))
INSIDE = (
    *("main thread moved", "main thread away for three batches", "helper thread moved"),
    *("private buffer migrated", "shared buffer migrated", "one page migrated", "migrated from outside"),
    *("mbind elsewhere", "policy dropped"),
)
OUTSIDE = {
    "wrong membind": lambda cpu, mem: ["numactl", f"--cpunodebind={cpu}", f"--membind={(mem + 1) % 4}"],
    "membind to two nodes": lambda cpu, mem: [*("numactl", f"--cpunodebind={cpu}", f"--membind={mem},{(mem + 1) % 4}")],
    "wrong cpunodebind": lambda cpu, mem: ["numactl", f"--cpunodebind={(cpu + 1) % 3}", f"--membind={mem}"],
    "preferred instead of bind": lambda cpu, mem: ["numactl", f"--cpunodebind={cpu}", f"--preferred={mem}"],
    "interleaved": lambda cpu, mem: ["numactl", f"--cpunodebind={cpu}", "--interleave=all"],
    "memory only bound": lambda cpu, mem: ["numactl", f"--membind={mem}"],
    "CPUs only bound": lambda cpu, mem: ["numactl", f"--cpunodebind={cpu}"],
    "not bound at all": lambda cpu, mem: [],
    "CPU node without CPUs": lambda cpu, mem: bind_prefix("numactl", 3, mem),
    "CPU node that does not exist": lambda cpu, mem: bind_prefix("numactl", 9, mem),
    "memory node that does not exist": lambda cpu, mem: bind_prefix("numactl", cpu, 9),
}
BIND_FAILURES = {name for name in OUTSIDE if "without CPUs" in name or "not exist" in name}
EACH = ((0, 0), (1, 2), (2, 0), (0, 3))  # placements of every sabotage


class Checks:
    def __init__(self) -> None:
        self.count = 0
        self.failures: list[str] = []

    def same(self, what: str, found: object, expected: object) -> None:
        self.count += 1
        if found != expected:
            self.failures.append(f"{what}: {found!r}, expected {expected!r}")


def run(prefix: list[str], cpu: int, mem: int, sabotage: str = "", **more: object) -> tuple[str, str]:
    """Run the stand-in behind a prefix. Return (outcome, why)."""
    cell = {"binding": "numactl", "cpu_node": cpu, "mem_node": mem, "placement_threshold": 1.0, **more}
    command = [*prefix, sys.executable, "-S", STANDIN, json.dumps(cell), sabotage]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        if sabotage == "migrated from outside":
            process.stdout.readline()
            migrate = ["migratepages", str(process.pid), str(mem), str((mem + 1) % 4)]
            subprocess.run(migrate, check=True)
        out, err = process.communicate("go\n")
    if process.returncode == 0:
        certificate = json.loads(out.splitlines()[-1])
        return certificate["verdict"], "; ".join(doubt["text"] for doubt in certificate["reasons"])
    if explained := explain_bind_failure(process.returncode, err):
        return explained.status, explained.reason
    if killed := explain_kill(process.returncode, mem):
        return killed.status, killed.reason
    return f"exit {process.returncode}", err[-300:]


def check_topology(checks: Checks) -> None:
    topology = read_topology()
    nodes = {node.id: (node.kind, node.cpus, node.allowed_cpus) for node in topology.nodes}
    both, only = "cpu+memory", "memory only"
    expected = {0: (both, "0-1", "0-1"), 1: (both, "2", "2"), 2: (both, "3", "3"), 3: (only, "", "")}
    checks.same("nodes", nodes, expected)
    checks.same("distances of node 0", topology.node(0).distances, {0: 10, 1: 21, 2: 31, 3: 17})
    checks.same("distances of node 3", topology.node(3).distances, {0: 17, 1: 28, 2: 28, 3: 10})
    checks.same("round trip", decode(msgspec.json.encode(topology), Topology), topology)
    checks.same("binding auto", choose_binding("auto", topology)[0], "numactl")
    for cpu, mem in product((0, 1, 2, 3, 9), (0, 1, 2, 3, 9)):
        runs = not why_not_here(topology, 0, (cpu, mem), ON_CPU)
        checks.same(f"runnable and trial bind on {cpu}, {mem}", runs, trial_bind(cpu, mem) is None)
    checks.same("GPU", bool(why_not_here(topology, 0, (0, 0), Settings(device="cuda"))), True)


def check_cpuset(checks: Checks) -> None:
    """In a cgroup with node 1's CPU and memory only, the rest is outside, by topology and by numactl alike."""
    group = Path("/sys/fs/cgroup/narrow")
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+cpuset")
    group.mkdir()
    (group / "cpuset.cpus").write_text("2")
    (group / "cpuset.mems").write_text("1")
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        topology = read_topology()
        allowed = {node.id: (node.allowed_cpus, node.memory_allowed) for node in topology.nodes}
        checks.same("cpuset", allowed, {0: ("", False), 1: ("2", True), 2: ("", False), 3: ("", False)})
        for cpu, mem in ((1, 1), (0, 1), (1, 0), (2, 2), (3, 1), (1, 3)):
            runs = not why_not_here(topology, 0, (cpu, mem), ON_CPU)
            checks.same(f"in the cpuset, {cpu}, {mem}", runs, trial_bind(cpu, mem) is None)
    finally:
        Path("/sys/fs/cgroup/cgroup.procs").write_text(str(os.getpid()))


def check_sabotage(checks: Checks, pool: ThreadPoolExecutor) -> dict[str, dict[str, int]]:
    """Every sabotage on every placement of EACH. Return outcomes by sabotage."""
    jobs = {}
    for (cpu, mem), name in product(EACH, INSIDE):
        jobs[name, cpu, mem] = pool.submit(run, bind_prefix("numactl", cpu, mem), cpu, mem, name)
    for (cpu, mem), name in product(EACH, OUTSIDE):
        jobs[name, cpu, mem] = pool.submit(run, OUTSIDE[name](cpu, mem), cpu, mem)
    outcomes: dict[str, Counter[str]] = {}
    for (name, cpu, mem), job in jobs.items():
        outcome, why = job.result()
        outcomes.setdefault(name, Counter())[outcome] += 1
        expected = "bind_failed" if name in BIND_FAILURES else "misplaced"
        checks.same(f"{name} on {cpu}, {mem} ({why})", outcome, expected)
    return {name: dict(counts) for name, counts in outcomes.items()}


def check_honest(checks: Checks, pool: ThreadPoolExecutor, runs: int) -> dict[str, int]:
    """Honest runs over all placements, half of them with automatic NUMA balancing on and huge pages allowed."""
    outcomes: Counter[str] = Counter()
    halves = (("0", "madvise", runs // 2), ("1", "always", runs - runs // 2))
    for balancing, huge_pages, count in halves:
        Path("/proc/sys/kernel/numa_balancing").write_text(balancing)
        Path("/sys/kernel/mm/transparent_hugepage/enabled").write_text(huge_pages)
        jobs = [
            (cpu, mem, pool.submit(run, bind_prefix("numactl", cpu, mem), cpu, mem))
            for cpu, mem in islice(cycle(PLACEMENTS), count)
        ]
        for cpu, mem, job in jobs:
            outcome, why = job.result()
            outcomes[outcome] += 1
            checks.same(f"honest run on {cpu}, {mem}, balancing {balancing} ({why})", outcome, "proved")
    return dict(outcomes)


def main(honest_runs: int) -> None:
    checks = Checks()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"guest: {time.monotonic() - began:6.1f} s  {text}", flush=True)

    check_topology(checks)
    check_cpuset(checks)
    say(f"topology, runnable, cpuset: {len(checks.failures)} failures")
    outcome, why = run(bind_prefix("numactl", 0, 3), 0, 3, buffer_bytes=160 << 20)
    checks.same(f"memory node too small ({why})", outcome, "oom")
    with ThreadPoolExecutor(3) as pool:
        sabotage = check_sabotage(checks, pool)
        say(f"{sum(sum(counts.values()) for counts in sabotage.values())} sabotaged runs: {sabotage}")
        honest = check_honest(checks, pool, honest_runs)
        say(f"{sum(honest.values())} honest runs: {honest}")
    looked = check_where(checks, honest_runs)
    say(f"where: {looked}")
    commands = check_commands(checks)
    say(f"commands: {commands}")
    results = {
        "kernel": os.uname().release,
        "checks": checks.count,
        "failures": checks.failures,
        "sabotage": sabotage,
        "honest": honest,
        "commands": commands,
        "where": looked,
        "guest_s": round(time.monotonic() - began, 1),
    }
    Path(os.environ["GUEST_RESULTS"], "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]))
