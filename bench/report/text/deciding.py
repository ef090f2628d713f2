"""What would decide a penalty: the line that measures it often enough, and how long that takes."""

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import structs

from bench.records.base import plain
from bench.records.results import Judged, MeasuredCell, Penalty, Reason, Remedy, Results
from bench.records.study import TRACED, ListedModel, Study
from bench.report.text.scale import Scale
from bench.report.text.verdicts import hint_text, verdict_text
from bench.study.models import read_model
from bench.units import duration, planned

# A plan of more repeats is no advice.
MOST_REPEATS = 200


def deciding_command(results: Results, gpu: int, models: Sequence[str], repeats: int) -> str:
    """The line that measures these models of a GPU often enough; empty where no sensible number would do.

    With the study as it was frozen: whatever the command line of the study itself had changed stays so.
    """
    if not models or not 0 < repeats <= MOST_REPEATS:
        return ""
    file = shlex.quote(f"{results.run_directory}/study.yaml")
    return f"numastudy run {file} --gpu-ids {gpu}{_only(results.study, models)} --repeats {planned(repeats)}"


def takes_s(results: Results, gpu: int, models: Sequence[str], repeats: int) -> float:
    """How long that line takes."""
    return repeats_s([cell for cell in results.cells if cell.gpu == gpu and cell.model.name in models], repeats)


def repeats_s(cells: Iterable[MeasuredCell], repeats: int) -> float:
    """How long so many repeats of these cells take, by their timed runs in this study; 0 if that is not known."""
    runs = [run for cell in cells for run in cell.runs if run.repeat != TRACED and run.wall_s]
    # The runs of a crossing are one process.
    processes = {run.crossing.id if run.crossing else run.run: run.wall_s or 0.0 for run in runs}
    return planned(repeats) * sum(processes.values()) / max(len({run.repeat for run in runs}), 1)


def penalty_text(results: Results, entry: Penalty, scale: Scale) -> str:
    """The sentence of a penalty, with the time that the repeats take that would decide it."""
    time_s = takes_s(results, entry.gpu, [entry.model], entry.repeats_needed or 0)
    return verdict_text(entry, entry.penalty, results.rules, scale, takes_s=time_s)


def deciding_hint(results: Results, entry: Penalty) -> str:
    """What would make a penalty decidable, with the line to paste where there is one, and how long it takes."""
    line, repeats = "", entry.repeats_needed or 0
    if entry.remedy is not None and entry.interval is not None:
        line = deciding_command(results, entry.gpu, [entry.model], repeats)
    if line and (time_s := takes_s(results, entry.gpu, [entry.model], repeats)):
        line += f"  # about {duration(time_s)}"
    remedy = "" if line and entry.remedy is Remedy.REPEAT else hint_text(entry)
    return "; or ".join(filter(None, (remedy, line)))


# (label, cell)
Cells = list[tuple[str, str]]


def hint_groups(results: Results, judged: Iterable[tuple[Judged, str, str]]) -> list[tuple[str, Cells]]:
    """What would decide comparisons, each with (label, cell) of those that it is about. judged: with both of each."""
    groups: dict[tuple[Remedy, Reason | None], list[tuple[Judged, str, str]]] = {}
    for one in judged:
        if one[0].remedy is not None:
            groups.setdefault((one[0].remedy, one[0].reason), []).append(one)
    return [
        (_of_group(results, [entry for entry, _, _ in own]), [(label, cell) for _, label, cell in own])
        for own in groups.values()
    ]


def _of_group(results: Results, own: Sequence[Judged]) -> str:
    """With the repeats that would decide all of them."""
    most = max(own, key=lambda entry: entry.repeats_needed or 0)
    text = hint_text(most)
    time_s = repeats_s(results.cells, most.repeats_needed or 0)
    return f"{text} (about {duration(time_s)} for the whole study)" if most.remedy is Remedy.REPEAT and time_s else text


def _only(study: Study, names: Sequence[str]) -> str:
    """The option that chooses these models; "" where the study does not list them, as a command or an axis."""
    entries = {read_model(plain(entry), "models").name: entry for entry in study.models}
    if not {*names} <= entries.keys():
        return ""
    chosen = [_shortest(entries[name]) for name in dict.fromkeys(names)]
    if all(isinstance(one, str) for one in chosen):
        return f" --models {','.join(map(str, chosen))}"
    return f" --models {shlex.quote(json.dumps(chosen))}"


def _shortest(entry: ListedModel) -> str | dict[str, Any]:
    """As a user would list it: a name alone where that means the same."""
    full = {key: value for key, value in plain(entry).items() if key != "sha256"}
    alone = read_model(entry.model, "models")
    same = structs.replace(read_model(full, "models"), sha256="") == structs.replace(alone, sha256="")
    return entry.model if same else full
