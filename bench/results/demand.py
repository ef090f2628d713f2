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
    """One more block, up to `most`, for the whole group of a run that the monitor saw disturbed.

    A cell that is compared with nothing has no pair to lose.
    """
    groups: dict[str, set[str]] = {}
    disturbed: dict[str, set[int]] = {}
    for slot in directory.grid().order:
        groups.setdefault(slot.group, set()).add(slot.cell)
        if slot.repeat != TRACED and _was_disturbed(directory, slot.cell, slot.repeat):
            disturbed.setdefault(slot.group, set()).add(slot.block)
    return {
        cell: repeats + min(len(blocks), most)
        for group, blocks in disturbed.items()
        for cell in groups[group]
        if len(groups[group]) > 1
    }


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
