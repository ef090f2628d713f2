"""`numastudy where`: choose the processes, look, judge, and give the exit code."""

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from bench.errors import StudyError
from bench.host.gpus import gpu_users, query_nvml
from bench.host.topology import read_topology
from bench.records.host import Gpu, Nvml, Topology, format_cpulist
from bench.records.where import GpuProcesses, Near, Where, WhereVerdict
from bench.storage import utc_now
from bench.where.judge import judge
from bench.where.look import Stat, ancestors, look, members, node_cpus, process_of, process_table
from bench.where.text import problem_text, verdict_text

LOCAL, ELSEWHERE, UNSEEN = 0, 3, 4


@dataclass(frozen=True)
class Request:
    """pids: look at these; else at the users of gpus (indices or UUIDs, which may be shortened); else of all GPUs.

    node: the near node, whatever is known of the GPUs. watch_s: observe threads for so long.
    """

    pids: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    node: int | None = None
    watch_s: float = 0.0
    quick: bool = False


class NoSuchProcess(StudyError):
    """No process to look at."""

    exit_code = 5


def where(request: Request, nvml: Nvml | None = None) -> tuple[Where, int]:
    """Look and judge. Return the answer and the exit code. Raise StudyError, or NoSuchProcess.

    nvml: its answers, if the caller has them.
    """
    if not math.isfinite(request.watch_s):
        raise StudyError(f"found {request.watch_s}, allowed is a number of seconds", "--watch")
    nvml = nvml or query_nvml()
    topology = read_topology(nvml=nvml)
    if request.node is not None and topology.node(request.node) is None:
        known = format_cpulist(node.id for node in topology.nodes)
        raise StudyError("there is no such NUMA node", f"--node {request.node}", f"name one of {known}")
    chosen = [_gpu(topology, named) for named in request.gpus] or list(topology.gpus)
    if not request.pids and not chosen:
        raise StudyError(
            f"no GPU to look at: {nvml.error or 'NVML lists none'}", "numastudy where", "name processes: PID..."
        )
    began = time.perf_counter()
    table = process_table()
    pids, gpus_of = _processes(request, chosen, nvml, table)
    nodes = {node.id: node.cpus for node in topology.nodes}
    cpus = node_cpus(nodes)
    places, ended = look(pids, cpus, request.quick or request.watch_s > 0, request.watch_s)
    cost_s = time.perf_counter() - began - request.watch_s
    if not places:
        raise NoSuchProcess("every process ended before it could be observed", format_cpulist(pids), "look again")
    given = None if request.node is None else Near(nodes=(request.node,), source="--node")
    found = judge(places, gpus_of, {gpu.index: gpu for gpu in topology.gpus}, cpus, given)
    if not request.pids:
        indices = {gpu.index for gpu in chosen}
        found = [gpu for gpu in found if gpu.index is None or gpu.index in indices]
    answer = Where(
        at=utc_now(),
        nodes=nodes,
        gpus=tuple(_with_texts(gpu) for gpu in found),
        ended=ended,
        watched_s=request.watch_s,
        cost_ms=round(cost_s * 1e3, 2),
    )
    return answer, exit_code(gpu.verdict for gpu in found)


def exit_code(verdicts: Iterable[WhereVerdict]) -> int:
    """That of the worst verdict; what is elsewhere is worse than what could not be seen."""
    found = {*verdicts}
    if found & {WhereVerdict.REMOTE, WhereVerdict.MIXED}:
        return ELSEWHERE
    return UNSEEN if WhereVerdict.UNSEEN in found else LOCAL


def _processes(
    request: Request, chosen: Sequence[Gpu], nvml: Nvml, table: Mapping[int, Stat]
) -> tuple[list[int], dict[int, tuple[int, ...]]]:
    """The processes to look at, and the GPUs that each works for."""
    indices = {gpu.index for gpu in chosen}
    own = ancestors(os.getpid(), table)
    if request.pids:
        roots = _roots(request.pids, table)
    else:
        # What started this process may use a GPU, as the kernel of a notebook does.
        users = gpu_users(nvml, (pid for pid in table if pid != os.getpid()))
        roots = [pid for pid, used in users.items() if indices & {*used}]
        if not roots:
            names = ", ".join(f"GPU {index}" for index in sorted(indices))
            advice = "as root more can be seen; or name processes: PID..." if os.geteuid() else "name processes: PID..."
            raise NoSuchProcess("no process uses a GPU", names, advice)
    pids = members(roots, table, without=own)
    if request.pids and request.gpus:
        return pids, dict.fromkeys(pids, tuple(sorted(indices)))
    users = gpu_users(nvml, pids)
    # One without works for those of its nearest ancestor with any.
    return pids, {pid: next((users[one] for one in ancestors(pid, table) if one in users), ()) for pid in pids}


def _roots(pids: Sequence[int], table: Mapping[int, Stat]) -> list[int]:
    roots = [process_of(pid) for pid in pids]
    for pid in roots:
        if pid not in table:
            advice = "it ended, it is another PID namespace's, or /proc hides it (hidepid): try as root"
            raise NoSuchProcess("there is no such process", str(pid), advice)
    return roots


def _gpu(topology: Topology, named: str) -> Gpu:
    """By index, or by the beginning of a UUID."""
    if named.isdigit():
        found = [gpu for gpu in topology.gpus if gpu.index == int(named)]
    else:
        found = [gpu for gpu in topology.gpus if named and (gpu.uuid or "").startswith(named)]
    if len(found) != 1:
        what = "names several GPUs" if found else "there is no such GPU"
        listed = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in topology.gpus)
        why = f" (NVML: {topology.nvml_error})" if topology.nvml_error else ""
        advice = f"GPUs of this host: {listed}" if listed else f"this host has no GPU{why}; name a PID"
        raise StudyError(what, f"--gpu {named}", advice)
    return found[0]


def _with_texts(gpu: GpuProcesses) -> GpuProcesses:
    places = tuple(
        replace(place, problems=tuple(replace(one, text=problem_text(one)) for one in place.problems))
        for place in gpu.processes
    )
    return replace(gpu, text=verdict_text(gpu), processes=places)
