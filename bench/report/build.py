"""The results of a run directory, and every file that is written from them. Measures nothing."""

import gc
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bench.analysis.aggregate import measured_cells
from bench.analysis.axes import comparisons
from bench.analysis.bound import hidden_copies, predictions
from bench.analysis.claims import claimed
from bench.analysis.contention import contention
from bench.analysis.crossing import crossings
from bench.analysis.fastest import fastest
from bench.analysis.links import link_entries
from bench.analysis.load import RunData, load
from bench.analysis.noise_floor import recall
from bench.analysis.pairs import local_nodes
from bench.analysis.penalties import penalties
from bench.analysis.recommend import recommend
from bench.analysis.statistics import Measured, drift
from bench.analysis.trust import busy_s, count, duration_s, measured_s, summarise, trust
from bench.analysis.verdicts import rules_of
from bench.host.probe import locality_changes
from bench.records.base import plain
from bench.records.host import Fingerprint, Probe, Topology
from bench.records.results import Drift, Locality, MeasuredCell, Results
from bench.records.run import Run
from bench.report.markdown import markdown
from bench.report.page import render
from bench.report.tables import csv_text, write_database
from bench.report.text.fill import with_text
from bench.storage import utc_now, write_json, write_text
from bench.study.directory import RunDirectory


def make_report(run_dir: Path | str, invocation: str) -> Results:
    """Write results.json, experiment_summary.json, results.csv, results.db, report.md and report.html.

    Each file appears whole or not at all; results.json comes last but for the page, which links to all.
    Raise StudyError if run_dir is not a run directory.
    """
    with _no_collections():
        return _make_report(load(run_dir), invocation)


def _make_report(data: RunData, invocation: str) -> Results:
    results = with_text(build_results(data, invocation))
    write_json(data.path / "experiment_summary.json", plain(summarise(results)))
    write_text(data.path / "results.csv", csv_text(results.cells))
    write_database(data.path / "results.db", results)
    write_text(data.path / "report.md", markdown(results))
    write_json(data.path / "results.json", plain(results))
    write_text(data.path / "report.html", render(data, results))
    return results


@contextmanager
def _no_collections() -> Iterator[None]:
    """Records and figures are trees that live until the report is written: looking for cycles among them is a tenth of
    its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def build_results(data: RunData, invocation: str) -> Results:
    """Fold a run directory into the results; pure but for created_at and the noise floor that is kept beside it."""
    study, runs, cells = data.study, list(data.runs.values()), measured_cells(data)
    rules, fingerprint = rules_of(study), _fingerprint(data)
    host = data.host.host or fingerprint.host or platform.node()
    local = local_nodes(cells, data.host, data.probes.get("before"))
    found = claimed(
        penalties(cells, local, rules), comparisons(cells, study, rules), fastest(cells, study, rules), rules
    )
    results = Results(
        study=study,
        study_name=study.name,
        run_directory=str(data.path),
        created_at=utc_now(),
        invocation=invocation,
        host=host,
        fingerprint=fingerprint,
        topology=Topology(**{key: getattr(data.host, key) for key in Topology.__struct_fields__}),
        locality=_locality(data.probes),
        preflight=data.preflight,
        device=_device(runs, cells),
        device_names=_device_names(data, runs),
        binding=cells[0].settings.binding,
        rules=rules,
        counts=count(cells, sum(max(len(cell.runs), study.repeats + study.is_traced) for cell in cells)),
        duration_s=duration_s(runs),
        busy_s=busy_s(runs),
        measured_s=measured_s(runs),
        trust=trust(runs, cells, fingerprint, _noise_floor(data, host)),
        damaged=data.damaged,
        cells=cells,
        penalties=found.penalties,
        predictions=predictions(found.penalties, cells, rules.margin),
        hidden_copies=hidden_copies(cells),
        comparisons=found.comparisons,
        fastest=found.fastest,
        claims=found.claims,
        contention=contention(cells, found.comparisons),
        links=link_entries(data.links),
        drift=_drift(cells),
        crossings=crossings(runs),
    )
    return replace(results, recommendations=recommend(results))


def _fingerprint(data: RunData) -> Fingerprint:
    """Of the host when the study began, else of its first run."""
    known = (data.host.fingerprint, *(run.fingerprint for run in data.runs.values()))
    return next((facts for facts in known if facts != Fingerprint()), Fingerprint())


def _noise_floor(data: RunData, host: str) -> float | None:
    """What an earlier SelfCheck of this host left beside its studies."""
    try:
        return recall(host, RunDirectory(data.path).outputs)
    except IndexError:  # moved to where nothing is three folders above it
        return None


def _locality(probes: dict[str, Probe]) -> Locality:
    before, after = probes.get("before", Probe()), probes.get("after", Probe())
    repeated = bool(before.gpus and after.gpus)
    return Locality(
        gpus=tuple(msgspec.structs.replace(gpu, scans_us=()) for gpu in before.gpus),
        error=before.error,
        can_hold=before.can_hold,
        repeated=repeated,
        changes=locality_changes(before, after) if repeated else (),
    )


def _drift(cells: Sequence[MeasuredCell]) -> Drift | None:
    """By position in the order: None where too little was repeated."""
    return drift(
        [
            Measured(cell.name, cell.noise_class, float(run.position), run.rate)
            for cell in cells
            for run in cell.runs
            if run.repeat != "traced" and run.rate and run.position is not None
        ]
    )


def _device(runs: Sequence[Run], cells: Sequence[MeasuredCell]) -> str:
    measured = [run.result.device.type for run in runs if run.result]
    return next((kind for kind in measured if kind), cells[0].settings.device)


def _device_names(data: RunData, runs: Sequence[Run]) -> dict[str, str]:
    """By GPU index: as the runs saw it, else as the topology names it."""
    gpu_of = {cell.name: cell.gpu for cell in data.cells}
    names = {gpu.index: gpu.name for gpu in data.host.gpus}
    for run in runs:
        if run.result and run.result.device.name and run.cell in gpu_of:
            names[gpu_of[run.cell]] = run.result.device.name
    wanted = set(gpu_of.values())
    return {str(gpu): name for gpu, name in sorted(names.items()) if gpu in wanted}
