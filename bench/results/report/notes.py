"""What is said before any number: warnings, the trust line, and in words how the study was done."""

from typing import Any

from bench.results.outcomes import MISSING, NOT_READ, NOT_TRACED, is_untraced, told_outcome
from bench.results.words import percent, plural, seconds

Record = dict[str, Any]
CPU_ONLY = "CPU device: no GPU was measured"
UNTRACED = "No run was traced: regimes, and what copies and kernels did, are not known"
SYNTHETIC = "Synthetic example: no machine measured this"
UNBOUND = "Nothing was bound: the nodes are labels only, and a difference between them means nothing"


def notes(results: Record) -> list[str]:
    """What stands on every page before anything else is read."""
    found = []
    if results["fingerprint"].get("synthetic"):
        found.append(SYNTHETIC)
    if results["device"] == "cpu":
        found.append(CPU_ONLY)
    if results["binding"] == "none":
        found.append(UNBOUND)
    if results["counts"].get(MISSING):
        found.append(_not_complete(results["cells"]))
    if results["damaged"]:
        found.append(f"{plural(len(results['damaged']), 'record')} could not be read")
    return found


def _not_complete(cells: list[Record]) -> str:
    words = [told_outcome(cell) for cell in cells if cell["outcome"] == MISSING]
    begun = sum(word.endswith("so far") for word in words)
    counts = {
        "to be measured": words.count(MISSING),
        "with timed runs to come": begun,
        "not traced": words.count(NOT_TRACED),
        "with a trace to be read": words.count(NOT_READ),
    }
    said = " and ".join(f"{number} {what}" for what, number in counts.items() if number)
    return f"Not complete: of {plural(len(cells), 'cell')}, {said}" + (f". {UNTRACED}" if is_untraced(cells) else "")


def host_facts(results: Record) -> list[str]:
    """Host, GPUs, CPU and driver, in one line."""
    facts, names = results["fingerprint"], list(results["device_names"].values())
    if results["device"] == "cpu":
        names = names[:1]  # one CPU, whatever labels its cells have
    gpus = [f"{names.count(name)} × {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)]
    driver = facts.get("driver")
    said = [results["host"].get("name"), *gpus, facts.get("cpu"), driver not in (None, "none") and f"driver {driver}"]
    return [str(fact) for fact in dict.fromkeys(said) if fact]


def trust_items(results: Record) -> list[tuple[str, str, str]]:
    """(figure, label, state) of the trust line; state is good, warn or plain."""
    trust, counts = results["trust"], results["counts"]
    whole = counts["ok"] == counts["cells"]
    # Nothing went wrong with what is only not there yet.
    label = "cells complete" if counts.get(MISSING, 0) + counts["ok"] == counts["cells"] and not whole else "cells ok"
    items = [(f"{counts['ok']} of {counts['cells']}", label, "good" if whole else "warn")]
    if results["binding"] == "none":
        items.append(("no run", "was bound to its node", "warn"))
    else:
        proved = trust["proved"] == trust["runs_ok"] > 0
        figure = f"{trust['proved']} of {trust['runs_ok']}"
        items.append((figure, "runs with their placement proved", "good" if proved else "warn"))
    items += [*_noise(trust), *_watched(trust, results["device"])]
    if trust["disturbed"]:
        items.append((str(len(trust["disturbed"])), "disturbed " + _runs(trust["disturbed"]), "warn"))
    return items


def _noise(trust: Record) -> list[tuple[str, str, str]]:
    labels = {
        "rest": "spread between runs",
        "launch-bound": "spread, launch-bound cells",
        "unknown": "spread between runs" + (", untraced cells" if len(trust["noise"]) > 1 else ""),
    }
    known = {
        key: (percent(trust["noise"][key]), label, "plain") for key, label in labels.items() if key in trust["noise"]
    }
    if trust["noise_floor"] is not None:
        known = {"rest": (percent(trust["noise_floor"]), "noise floor of this host", "plain")} | {
            key: item for key, item in known.items() if key != "rest"
        }
    return list(known.values()) or [("1 run", "a cell: no uncertainty known", "warn")]


def _watched(trust: Record, device: str) -> list[tuple[str, str, str]]:
    """Only timed runs are watched: beside a traced one the profiler is at work all the time."""
    watched, timed, seen = trust["monitored"], trust["timed_ok"], trust["monitored"] - len(trust["unseen"])
    if device != "cuda":
        return []
    if not watched:
        return [("not watched", "clocks and throttling", "plain")]
    if not seen:
        return [("not told", f"whether throttled, {plural(watched, 'timed run')} watched", "warn")]
    held = len(trust["throttled"])
    told = (
        f"throttled of {timed} timed runs watched" if seen == timed else f"throttled; {seen} of {timed} timed runs told"
    )
    return [(str(held), told, "warn" if held or seen < timed else "good")]


def _runs(names: list[str]) -> str:
    return "run" if len(names) == 1 else "runs"


def method(results: Record, runs: dict[str, Record], order: tuple[Record, ...]) -> Record:
    """Versions, seed, order, command lines, fingerprint."""
    versions = next((found for run in runs.values() if (found := (run.get("result") or {}).get("versions"))), {})
    plain = {key: value for key, value in results["study"].items() if not isinstance(value, list | dict)}
    return {
        "text": _text(results),
        "drift": _drift(results),
        "study": {key: value for key, value in plain.items() if key not in ("name", "question")},
        "versions": versions,
        "fingerprint": results["fingerprint"],
        "commands": _commands(runs),
        "order": _order(runs, order),
    }


def _order(runs: dict[str, Record], order: tuple[Record, ...]) -> list[str]:
    """The slots that were used; the grid also has some for runs that nothing asked for."""
    done = {(run["cell"], run["repeat"]) for run in runs.values()}
    slots = [(slot.get("cell"), slot.get("repeat")) for slot in order]
    return [f"{cell} {repeat}" for cell, repeat in slots if (cell, repeat) in done]


def _text(results: Record) -> str:
    study = results["study"]
    repeats = int(study.get("repeats") or 1)
    pairs = (
        "Cells that differ only in node were measured next to each other, in turned order, and are compared pair by "
        "pair. "
        if results["penalties"]
        else ""
    )
    return (
        f"{plural(results['counts']['cells'], 'cell')}, each run {plural(repeats, 'time', 'times')} without a profiler "
        f"and once traced; every run is a process of its own{_forked(study)}. A run's value is the median of at least "
        f"{study.get('windows', 9)} windows of at least {study.get('window_s', 0.1):g} s after a warm-up, a cell's "
        f"the geometric mean of its runs. {pairs}From first to last run {seconds(results['duration_s'])}, "
        f"{seconds(results['busy_s'])} of it in runs."
    )


def _forked(study: Record) -> str:
    if study.get("start") != "fork":
        return ""
    return ", from the second repeat on forked from an interpreter that had imported torch and not touched CUDA"


def _drift(results: Record) -> str:
    found = results["drift"]
    if found is None:
        return ""
    low, high = (100 * bound for bound in found["interval"])
    return (
        f"Drift of the host over the study: {100 * found['change']:+.2f} % [{low:+.2f}, {high:+.2f}] as a straight "
        f"line; between its fastest and its slowest fifth {percent(found['swing'])}. Pairs take it out of penalties."
    )


def _commands(runs: dict[str, Record]) -> list[tuple[str, str, str]]:
    """(kind, run, line) of the first timed and the first traced run that has one."""
    found: dict[str, tuple[str, str, str]] = {}
    for record in sorted(runs.values(), key=lambda record: record.get("position") or 0):
        kind = "Traced run" if record["repeat"] == "traced" else "Timed run"
        if record.get("command"):
            found.setdefault(kind, (kind, record["run"], " ".join(map(str, record["command"]))))
    return list(found.values())
