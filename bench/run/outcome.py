"""What became of a run: from how the child ended to an outcome with a reason and what to do."""

import signal
from typing import Any

from bench.host.binding import KILLED, explain_bind_failure, explain_kill
from bench.run.child import MOST_LOG_BYTES, ChildEnd
from bench.run.record import BIND_FAILED, CRASHED, MISPLACED, OK, OOM, TIMEOUT, failure
from bench.study.cell import Cell


def judge(cell: Cell, end: ChildEnd, result: dict[str, Any] | None, log_tail: list[str]) -> dict[str, Any]:
    """{"status", "reason", "advice"} of a run whose child ended so. result: what the child wrote, if it did."""
    if end.timed_out:
        return failure(
            TIMEOUT,
            f"not finished after {cell.timeout_s:g} s",
            "raise timeout_s, or lower num_samples; if it hangs, the end of its log says where",
        )
    if end.flooded:
        return failure(
            CRASHED,
            f"ended, since it wrote more than {MOST_LOG_BYTES >> 20} MiB into its log",
            "the log of the run begins with what it repeats",
        )
    if result and result.get("status") not in (None, OK):
        return failure(result["status"], result["reason"], result["advice"])
    if end.exit_code == 0 and result:
        return _judge_placement(result)
    if cell.binding == "numactl":
        refused = explain_bind_failure(end.exit_code, "\n".join(log_tail))
        if refused:
            return failure(BIND_FAILED, *refused)
    # Another signal is the run's own doing, whatever else the kernel killed meanwhile.
    if end.oom_kills > 0 and (end.exit_code in KILLED or 0 < end.exit_code < 128):
        killed = explain_kill(-signal.SIGKILL, cell.mem_node) if cell.binding == "numactl" else None
        return failure(
            *(
                killed
                or (
                    OOM,
                    "killed by the kernel: the host is out of memory",
                    "reduce memory_size_mb or batch_size, or free memory",
                )
            )
        )
    return failure(CRASHED, _how_it_ended(end.exit_code, log_tail), "see the log of the run")


def _judge_placement(result: dict[str, Any]) -> dict[str, Any]:
    certificate = result.get("certificate") or {}
    if certificate.get("verdict") != MISPLACED:
        return failure(OK, "")
    return failure(
        MISPLACED,
        "the run was not where its label says: " + "; ".join(certificate["reasons"]),
        "the certificate in the run record names each buffer; numastudy doctor names what moves pages and threads",
    )


def _how_it_ended(exit_code: int, log_tail: list[str]) -> str:
    last = next((line.strip() for line in reversed(log_tail) if line.strip()), "")
    said = f': "{last}"' if last else " and said nothing"
    # A shell, numactl's child or nsys may pass a signal on as 128 + number.
    number = -exit_code if exit_code < 0 else exit_code - 128
    if 0 < number < 65:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "unknown"
        return f"killed by signal {number} ({name}){said}"
    return f"exit code {exit_code}{said}"
