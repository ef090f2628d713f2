"""One run of one cell, from the frozen grid to its record. Never raises for what can happen to a run."""

import time
from collections.abc import Callable
from typing import Any

from bench.host.binding import trial_bind
from bench.host.peers import NoPeers
from bench.run.attempt import Report, attempt
from bench.run.experiment_log import log_runs
from bench.run.free_gpu import wait_until_free
from bench.run.lock import HostLock
from bench.run.peers import peers_of
from bench.run.record import CRASHED, LASTING, NOT_RUNNABLE, RETRIED, failure, read_head, read_record, write_record
from bench.run.starts import STARTS_THAT_TOOK_THE_HOST_DOWN, count_start, unended
from bench.study.cell import Cell
from bench.study.directory import RunDirectory, run_name
from bench.study.order import TRACED, Slot

ATTEMPTS = 2


def execute(
    directory: RunDirectory,
    cell: Cell,
    slot: Slot,
    invocation: str,
    lock: HostLock,
    report: Report,
    is_done: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run the cell and write runs/<run>.json. report(message, percent) is called while it goes on.

    is_done: asked once the host is free. Another call of the same study may have made the record meanwhile.
    """
    run = run_name(cell.name, slot.repeat)
    path = directory.record(cell.name, slot.repeat)
    head = {
        "run": run,
        "cell": cell.name,
        "repeat": slot.repeat,
        "invocation": invocation,
        "position": slot.position,
        "block": slot.block,
        "group": slot.group,
        "started_at": _now(),
        "fingerprint": directory.topology()["fingerprint"],
    }
    begin = time.monotonic()
    outcome = _before_the_start(directory, cell, slot, invocation)
    if outcome is None:
        lock.acquire(str(directory.path), lambda holder: report(holder, 1))
        if is_done() and (made := read_record(path)):
            return made
        # Waiting for the host is no part of the run: estimates are made from wall_s.
        begin, head["started_at"] = time.monotonic(), _now()
        outcome = _attempts(directory, cell, slot, lock, report)
    record = {"result": None, "monitor": None, "log_tail": [], "attempts": 0, "command": [], "exit_code": None}
    end = {"ended_at": _now(), "wall_s": round(time.monotonic() - begin, 3)}
    record = write_record(path, head | record | end | outcome)
    unended(path).unlink(missing_ok=True)
    log_runs(directory, [record])
    return record


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _before_the_start(directory: RunDirectory, cell: Cell, slot: Slot, invocation: str) -> dict[str, Any] | None:
    """An outcome that is certain without starting anything, or None."""
    if cell.reason:
        advice = "choose a GPU and nodes that numastudy doctor lists"
        return failure(NOT_RUNNABLE, cell.reason, advice) | {"by_grid": True}
    for earlier in range(1, slot.repeat if slot.repeat != TRACED else directory.study()["repeats"] + 1):
        record = read_head(directory.record(cell.name, earlier))
        if record and record["status"] in LASTING and record["invocation"] == invocation:
            return failure(record["status"], f"as repeat {earlier}: {record['reason']}", record["advice"])
    if cell.binding == "numactl":
        refused = trial_bind(cell.cpu_node, cell.mem_node)
        if refused:
            return failure(*refused)
    return None


def _attempts(directory: RunDirectory, cell: Cell, slot: Slot, lock: HostLock, report: Report) -> dict[str, Any]:
    try:
        peers = peers_of(directory, cell)
    except NoPeers as error:
        return failure(NOT_RUNNABLE, error.what, "choose another concurrent_placement, or fewer concurrent_gpus")
    outcome: dict[str, Any] = {}
    path = directory.record(cell.name, slot.repeat)
    for number in range(1, ATTEMPTS + 1):
        if count_start(path) >= STARTS_THAT_TOOK_THE_HOST_DOWN:
            return failure(
                CRASHED,
                f"the host went down during {STARTS_THAT_TOOK_THE_HOST_DOWN} starts of this run",
                "look at the kernel's log; the next call tries it again",
            )
        what = f"attempt {number}/{ATTEMPTS}, " if number > 1 else ""

        def say(text: str, percent: int, what: str = what) -> None:
            report(what + text, percent)

        gpus = [cell.gpu_uuid, *(peer.gpu_uuid for peer in peers)] if cell.device == "cuda" else []
        not_free = wait_until_free(gpus, lambda text: report(text, 1))
        outcome = attempt(directory, cell, slot, peers, lock, number, say)
        if outcome.get("monitor"):
            outcome["monitor"]["disturbed"] += [f"the GPU was not free: {who}" for who in not_free]
        outcome["attempts"] = number
        unended(path).unlink(missing_ok=True)
        # What hung once takes its whole time again.
        if outcome["status"] not in RETRIED or outcome.get("timed_out"):
            break
    return outcome
