"""Which cells need more timed runs than the study asks for: for precision, or because a pair was disturbed."""

from typing import Any

from bench.run.record import OK, read_record
from bench.study.directory import RunDirectory
from bench.study.order import TRACED

Record = dict[str, Any]


def demanded(directory: RunDirectory) -> dict[str, int]:
    """Timed repeats by cell, for the cells that need more than the study's repeats. Only from what is on disk.

    The number for a cell never falls while records are added, so that asking again after each round ends.
    """
    study = directory.study()
    needed = _for_disturbed(directory, study["repeats"], study["disturbed_repeats"])
    if study["target_precision"]:
        for cell, repeats in _for_precision(directory, study).items():
            needed[cell] = max(needed.get(cell, 0), repeats)
    return {cell: repeats for cell, repeats in needed.items() if repeats > study["repeats"]}


def _for_disturbed(directory: RunDirectory, repeats: int, most: int) -> dict[str, int]:
    """One more block, up to `most`, for each in which the monitor saw a run of the cell disturbed, or of one that it is
    compared with. A cell that is compared with nothing has no pair to lose.
    """
    disturbed: dict[str, set[int]] = {}
    for slot in directory.grid().order if most else ():
        if slot.repeat != TRACED and _was_disturbed(directory, slot.cell, slot.repeat):
            disturbed.setdefault(slot.cell, set()).add(slot.block)
    needed = {}
    for cell, others in (_compared(directory) if disturbed else {}).items():
        lost = {block for name in (cell, *others) for block in disturbed.get(name, ())}
        needed[cell] = repeats + min(len(lost), most)
    return needed


def _compared(directory: RunDirectory) -> dict[str, set[str]]:
    """By cell the cells it is compared with: those of its group, and along each axis."""
    from bench.results.axes import axes, matched
    from bench.results.cells import grid_entry

    grid = directory.grid()
    groups: dict[str, set[str]] = {}
    for slot in grid.order:
        groups.setdefault(slot.group, set()).add(slot.cell)
    found = {cell: group - {cell} for group in groups.values() if len(group) > 1 for cell in group}
    entries = [grid_entry(cell.as_json()) for cell in grid.cells.values()]
    for axis in axes(entries, directory.study()):
        for base, other in matched(axis, entries):
            found.setdefault(base["name"], set()).add(other["name"])
            found.setdefault(other["name"], set()).add(base["name"])
    return found


def _was_disturbed(directory: RunDirectory, cell: str, repeat: int | str) -> bool:
    record = read_record(directory.record(cell, repeat))
    return record is not None and record["status"] == OK and bool((record.get("monitor") or {}).get("disturbed"))


def _for_precision(directory: RunDirectory, study: Record) -> dict[str, int]:
    from bench.results.load import load
    from bench.results.pairs import comparison
    from bench.results.results import build_results
    from bench.results.stopping import decide

    results = build_results(load(directory.path), "")
    cells = {cell["name"]: cell for cell in results["cells"]}
    told, sides, asked = [], {}, {}
    for penalty in results["penalties"]:
        pair = cells[penalty["local_cell"]], cells[penalty["remote_cell"]]
        one, _ = comparison(penalty["remote_cell"], *pair)
        if one.local_runs.keys() & one.remote_runs.keys():
            told.append(one)
            sides[one.label] = [cell["name"] for cell in pair]
            asked[one.label] = max(len([run for run in cell["runs"] if run["repeat"] != TRACED]) for cell in pair)
    needed: dict[str, int] = {}
    for decision in decide(told, study["target_precision"], study["max_repeats"], asked) if told else []:
        for cell in sides[decision.label]:
            needed[cell] = max(needed.get(cell, 0), asked[decision.label] + decision.more)
    return needed
