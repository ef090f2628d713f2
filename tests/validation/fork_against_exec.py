"""Are forked runs the same as executed ones? Pairs of them, AB and BA by turns, a new fork server every block.

    python -m tests.validation.fork_against_exec --device cuda --budget-s 240 --out FILE.json
    python -m tests.validation.fork_against_exec --join FILE.json ... --out FILE.json --docs

The runs are the product's own: bench.run.child starts them, with and without bench.run.forkserver. On an idle machine
only; it holds the lock of the host. --join measures nothing: it sums up earlier runs. Exit code 1 unless accepted.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.host.topology import read_topology
from bench.records.base import plain
from bench.records.host import Topology
from bench.records.run import Mode
from bench.records.study import Cell
from bench.run.attempt import avoid_measured_cpus
from bench.run.child import Child, Launch, Process, child_environment, run_child, scratch_folder, workload_argv
from bench.run.forkserver import ForkServers, served
from bench.run.lock import HostLock
from bench.storage import write_json
from bench.study.grid import expand_here
from bench.study.load import read_study
from bench.study.order import measuring_order
from bench.workload.progress import process_start
from tests.validation.fork_results import EXEC, FORK, facts, judged
from tests.validation.validate import PAGE, write_page

BEGIN, END = "<!-- fork: begin -->", "<!-- fork: end -->"
# Launch by launch or as one CUDA graph: what is not noise.
MODELS = {
    "cuda": {"vit0x0x0": False, "vit32x2x128": True, "vit32x6x512": True, "vit16x12x1024": False},
    "cpu": {"vit0x0x0": False, "vit32x2x128": False},
}
SMALL = {"image_size": 64, "num_samples": 100, "batch_size": 5, "memory_size_mb": 64}
RESERVE_S = 3.0
Record = dict[str, Any]


def the_cells(device: str, topology: Topology, models: list[str] | None) -> list[Cell]:
    """On the first two nodes that can be measured on, where there are two."""
    chosen = {model: graph for model, graph in MODELS[device].items() if not models or model in models}
    usable = [node.id for node in topology.nodes if node.kind == "cpu+memory"]
    common = {
        "name": "fork_against_exec",
        "gpu_ids": [0],
        "numa_nodes": usable[:2],
        "device": device,
        **(SMALL if device == "cpu" else {}),
    }
    cells = []
    for model, graph in chosen.items():
        study = common | {"models": [model], "axes": {"cuda_graph": [graph]}}
        cells += expand_here(read_study(study, "fork_against_exec"), topology).grid.cells
    return cells


class Runner:
    """Runs, and the time left for them."""

    def __init__(self, topology: Topology, budget_s: float, folder: Path) -> None:
        self.topology, self.folder = topology, folder
        self.deadline = process_start() + budget_s - RESERVE_S
        self.servers, self.lock = ForkServers(), HostLock()
        self.errors: list[str] = []

    def left_s(self) -> float:
        return self.deadline - time.clock_gettime(time.CLOCK_BOOTTIME)

    def run(self, cell: Cell, how: str, block: int) -> Record | None:
        """None after a failure, which is noted."""
        cell_file, result = self.folder / f"{cell.name}.json", self.folder / "result.json"
        write_json(cell_file, plain(cell))
        result.unlink(missing_ok=True)
        logs = (self.folder / "stdout", self.folder / "stderr")
        process = Process(cell, workload_argv(cell_file, Mode.TIMED, result), logs, result)
        servers, server_s = self.servers.of_block(block, self.lock.record_child), 0.0

        def forked(launch: Launch, limit_s: float) -> tuple[Child, int]:
            nonlocal server_s
            began = time.monotonic()
            started = servers(launch, limit_s)
            server_s = time.monotonic() - began
            return started

        with avoid_measured_cpus(self.topology, [cell.cpu_node], cell.binding) as cpus:
            end = run_child(
                (process.wrapped(served) if how == FORK else process).command,
                child_environment(dict(os.environ)),
                logs,
                cell.timeout_s,
                on_start=self.lock.record_child,
                on_poll=lambda: None,
                keep_descriptors=(self.lock.fileno(),),
                poll_s=0.05,
                cpus=cpus,
                start=forked if how == FORK else None,
            )
        failure, report = process.failure(end), process.read_report()
        where = f"block {block}, {how} {cell.name}"
        if failure or report is None:
            self.errors.append(f"{where}: {failure.status}: {failure.reason}" if failure else f"{where}: no report")
            print(f"ERROR in {self.errors[-1]}", file=sys.stderr, flush=True)
            return None
        found = facts(plain(report.result), end.wall_s - server_s, server_s)
        print(
            f"{where}: {found['throughput_samples_s']:.1f} samples/s, {end.wall_s:.1f} s", file=sys.stderr, flush=True
        )
        return found


def measure(runner: Runner, cells: list[Cell], blocks: int, out: Path | None) -> Record:
    """All whole blocks that the time allows. After each, `out` holds what there is so far."""
    known = {cell.name: cell for cell in cells}
    record: Record = {"schema": 1, "device": cells[0].device, "nodes": {cell.name: cell.mem_node for cell in cells}}
    record |= {"gpu": _gpu(runner.topology, cells[0]), "errors": runner.errors, "runs": {name: {} for name in known}}
    # What a pair of nodes is compared by is measured side by side too.
    order = measuring_order(
        [(f"{name}|{how}", cell.group) for name, cell in known.items() for how in (EXEC, FORK)],
        blocks,
        seed=0,
        traced=False,
    )
    longest_s = 0.0
    for block in range(1, blocks + 1):
        began = time.monotonic()
        if longest_s * 1.05 > runner.left_s():
            break
        for slot in order:
            if slot.block == block:
                name, how = slot.cell.split("|")
                if found := runner.run(known[name], how, block):
                    record["runs"][name].setdefault(str(block), {})[how] = found
        longest_s = max(longest_s, time.monotonic() - began)
        record["ran_s"] = round(time.clock_gettime(time.CLOCK_BOOTTIME) - process_start(), 1)
        if out:
            write_json(out, record)
    return record


def joined(records: list[Record]) -> Record:
    """The runs of several calls on one host; their blocks are counted on."""
    whole = records[0] | {"runs": {}, "errors": [], "ran_s": 0.0}
    for record in records:
        past = max((int(block) for blocks in whole["runs"].values() for block in blocks), default=0)
        for cell, blocks in record["runs"].items():
            moved = {str(past + int(block)): pair for block, pair in blocks.items()}
            whole["runs"].setdefault(cell, {}).update(moved)
        whole["errors"] += record["errors"]
        whole["ran_s"] += record["ran_s"]
    return whole


def page(found: Record) -> str:
    return "\n".join(_lines(found))


def _lines(found: Record) -> Iterator[str]:
    runs = sum(len(pair) for blocks in found["runs"].values() for pair in blocks.values())
    verdict = "accepted" if found["accepted"] else "not accepted"
    begun = [pair[FORK]["server_s"] for blocks in found["runs"].values() for pair in blocks.values() if FORK in pair]
    yield f"On {found['gpu']}, {runs} runs in {found['ran_s']:.0f} s: forked runs are **{verdict}**."
    yield f"To start a server took up to {max(begun, default=0.0):.1f} s, which the times of runs are without."
    yield ""
    yield "| criterion | | measured |"
    yield "|---|---|---|"
    for each in found["criteria"]:
        word = {True: "kept", False: "NOT KEPT", None: "not decided"}[each["kept"]]
        yield f"| {each['name']} | {word} | {each['measured']} |"
    yield ""
    yield "| cell | pairs | executed | forked | forked is slower by | verdict | spread | faults a window | s a run |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in found["cells"]:
        one, other = row[EXEC], row[FORK]
        yield (
            f"| {row['name'].removeprefix('pipeline_')} | {row['pairs']} | {one['throughput_samples_s']:,.0f} |"
            f" {other['throughput_samples_s']:,.0f} | {_effect(row)} | {row['verdict']} |"
            f" {_percent(one['spread'])} / {_percent(other['spread'])} |"
            f" {one['minor_faults_a_window']:g} / {other['minor_faults_a_window']:g} |"
            f" {one['wall_s']:.1f} / {other['wall_s']:.1f} |"
        )
    if found["penalties"]:
        yield ""
        yield "| penalty of | pairs | forked is larger by | verdict |"
        yield "|---|---|---|---|"
        for row in found["penalties"]:
            yield f"| {row['name'].removeprefix('pipeline_')} | {row['pairs']} | {_effect(row)} | {row['verdict']} |"
    for error in found["errors"]:
        yield f"- {error}"


def _effect(row: Record) -> str:
    interval = row["interval"]
    return f"{100 * row['slower']:.2f} %" + (f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if interval else "")


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def _gpu(topology: Topology, cell: Cell) -> str:
    known = topology.gpu(cell.gpu) if cell.device == "cuda" else None
    return known.name if known else "the cpu device"


def main() -> int:
    options = _options()
    if options.join:
        record = joined([json.loads(path.read_bytes()) for path in options.join])
    else:
        topology = read_topology()
        cells = the_cells(options.device, topology, options.models)
        with scratch_folder() as folder:
            runner = Runner(topology, options.budget_s, Path(folder))
            runner.lock.acquire("fork_against_exec", print)
            try:
                record = measure(runner, cells, options.blocks, options.out)
            finally:
                runner.servers.end()
                runner.lock.release()
    found = record | judged(record["runs"], record["nodes"])
    if options.out:
        write_json(options.out, found)
    if options.docs:
        write_page(PAGE, page(found), BEGIN, END)
    print(page(found))
    return 0 if found["accepted"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--budget-s", type=float, default=240.0, help="no block begins that would end later")
    parser.add_argument("--blocks", type=int, default=40, help="pairs of each cell, if the time allows")
    parser.add_argument("--models", nargs="+", help="only these")
    parser.add_argument("--join", type=Path, nargs="+", help="measure nothing: sum up the runs of these files")
    parser.add_argument("--out", type=Path, help="where everything goes, as JSON")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/validity.md")
    return parser.parse_args()


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
