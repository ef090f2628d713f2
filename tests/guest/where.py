"""`numastudy where` on foreign process trees of the guest: honest ones are local, sabotaged ones are not."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from bench.host.numa_maps import resident_bytes
from bench.records.base import plain
from bench.records.where import MemoryKind, Where, WhereVerdict
from bench.where.command import Request, where
from bench.where.look import sampled_bytes
from bench.where.text import where_text
from tests.guest.foreign import CPUS_ONLY, HONEST, SABOTAGED, UNBOUND

FOREIGN = str(Path(__file__).with_name("foreign.py"))
GROUPS = Path("/sys/fs/cgroup")
NEAR, FAR = 1, 2
MIB = {"preferred spilled": 230, "interleaved": 64}
NOBODY = 65534
AS_NOBODY = """
import os, sys
os.setgid(65534); os.setuid(65534)
from bench.where.command import Request, where
answer, code = where(Request(pids=(int(sys.argv[1]),), node=int(sys.argv[2])))
print([gap.error for gap in answer.gpus[0].processes[0].unobserved])
sys.exit(code)
"""
_number = count()


@contextmanager
def foreign(kind: str) -> Iterator[int]:
    """The process of a tree, first in a control group of its own as a service, a container or a job step is."""
    group = GROUPS / f"foreign{next(_number)}"
    group.mkdir()
    bind = ["numactl", f"--cpunodebind={NEAR}", *([] if kind in CPUS_ONLY else [f"--membind={NEAR}"])]
    program = [sys.executable, "-S", FOREIGN, kind, str(NEAR), str(FAR), str(MIB.get(kind, 16))]
    enter = ["/bin/busybox", "sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    command = [*enter, *([] if kind in UNBOUND else bind), *program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "READY\n", kind
            yield process.pid
        finally:
            while members := (group / "cgroup.procs").read_text().split():
                for pid in members:
                    with suppress(ProcessLookupError):  # it ended in between
                        os.kill(int(pid), signal.SIGKILL)
                process.wait()
    group.rmdir()


def check_where(checks, honest_looks: int) -> dict[str, object]:
    Path("/dev/shm").mkdir(exist_ok=True)
    subprocess.run(["/bin/busybox", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
    Path("/proc/sys/vm/nr_hugepages").write_text("48")
    Path("/sys/kernel/mm/transparent_hugepage/enabled").write_text("madvise")
    Path("/proc/sys/kernel/numa_balancing").write_text("0")
    verdicts: dict[str, str] = {}
    looks: Counter[str] = Counter()
    costs = []
    for kind in (*HONEST, *SABOTAGED):
        with foreign(kind) as pid:
            times = max(1, honest_looks // len(HONEST)) if kind in HONEST else 1
            for turn in range(times):
                answer, code = where(Request(pids=(pid,), node=NEAR, quick=turn % 2 == 1))
                found = answer.gpus[0].verdict
                verdicts[kind] = found.value
                costs.append(answer.cost_ms)
                looks["honest" if kind in HONEST else "sabotaged"] += 1
                right = found is WhereVerdict.LOCAL if kind in HONEST else found in ("remote", "mixed")
                checks.same(f"where: {kind} ({where_text(answer)})", right, True)
                checks.same(f"exit code of where: {kind}", code, 0 if kind in HONEST else 3)
            if kind == "interleaved":
                check_sample(checks, pid)
            if kind == "honest":
                check_nobody(checks, pid)
                check_json(checks, answer)
            if kind == "pool before affinity":
                check_remedy(checks, pid)
    Path("/proc/sys/vm/nr_hugepages").write_text("0")
    return {"verdicts": verdicts, "looks": dict(looks), "slowest_look_ms": max(costs)}


def check_sample(checks, pid: int) -> None:
    """Every other page of the pool is on each node: evenly spaced samples would see one of them only."""
    every, sample = resident_bytes(pid)[MemoryKind.ANON], sampled_bytes(pid)[MemoryKind.ANON]
    total = sum(every.values())
    differences = {node: (sample.get(node, 0) - size) / total for node, size in every.items()}
    checks.same(f"sampled pages {differences}", all(abs(part) <= 0.02 for part in differences.values()), True)
    checks.same(
        "nodes of the interleaved pool", {NEAR, FAR} <= {node for node in every if every[node] > 16 << 20}, True
    )


def check_nobody(checks, pid: int) -> None:
    command = [sys.executable, "-S", "-c", AS_NOBODY, str(pid), str(NEAR)]
    ended = subprocess.run(command, capture_output=True, text=True)
    checks.same(f"where as nobody ({ended.stdout} {ended.stderr})", ended.returncode, 4)
    checks.same("reason as nobody", "Permission denied" in ended.stdout, True)


def check_json(checks, answer: Where) -> None:
    gpu = json.loads(json.dumps(plain(answer)))["gpus"][0]
    checks.same("near in JSON", gpu["near"], {"nodes": [NEAR], "source": "--node"})
    checks.same("policies in JSON", [*gpu["processes"][0]["policies"]], [f"bind:{NEAR}"])


def check_remedy(checks, pid: int) -> None:
    """The line to paste does what it says."""
    answer, _ = where(Request(pids=(pid,), node=NEAR))
    for remedy in answer.gpus[0].remedies:
        checks.same(f"runs: {remedy.command}", subprocess.run(remedy.command.split()).returncode, 0)
    answer, _ = where(Request(pids=(pid,), node=NEAR))
    checks.same("verdict after the remedy", answer.gpus[0].verdict, WhereVerdict.LOCAL)
