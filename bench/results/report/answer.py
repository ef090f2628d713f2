"""The answer in words: for each GPU where to run, and what another node costs."""

from dataclasses import dataclass, field
from typing import Any

from bench.results.words import percent

Record = dict[str, Any]
_SOURCES = {
    "reported": "the node that the system reports as nearest",
    "measured": "the nearest node by measurement; the system does not report one",
    "reference": "the first node of the study: which one is nearest is not known",
}


@dataclass(frozen=True)
class Loss:
    """One model on one other node. share: what is lost there, negative is a gain; half: of its interval."""

    model: str
    node: str
    share: float
    low: float | None
    high: float | None
    verdict: str
    sentence: str
    cell: str
    text: str


@dataclass(frozen=True)
class Answer:
    """sentence: the whole answer for one GPU. node is None where nothing could be said."""

    gpu: int
    name: str
    node: int | None
    source: str
    sentence: str
    losses: tuple[Loss, ...] = field(default=())


def answers(results: Record) -> list[Answer]:
    """One answer a GPU, in order of their index."""
    return [_answer(results, gpu) for gpu in sorted({cell["gpu"] for cell in results["cells"]})]


def _answer(results: Record, gpu: int) -> Answer:
    name = results["device_names"].get(str(gpu), "")
    penalties = [penalty for penalty in results["penalties"] if penalty["gpu"] == gpu]
    if not penalties:
        return Answer(gpu, name, None, "", _nothing_compared(results, gpu))
    local, source = penalties[0]["local_node"], penalties[0].get("local_source") or "reference"
    losses = tuple(_loss(penalty) for penalty in penalties if penalty["penalty"] is not None)
    by_node: dict[str, list[Loss]] = {}
    for loss in losses:
        by_node.setdefault(loss.node, []).append(loss)
    told = [
        f"On {node} " + ", ".join(loss.sentence for loss in group) + "." for node, group in by_node.items()
    ]
    best = _best(local, losses)
    lead = f"Run on node {best}."
    if best != local:
        lead += f" Node {local} is {_SOURCES.get(source, source)}, yet node {best} is faster."
    return Answer(gpu, name, best, _SOURCES.get(source, source), " ".join([lead, *told]), losses)


def _best(local: int, losses: tuple[Loss, ...]) -> int:
    """The local node, unless another one is faster for some model and slower for none."""
    for node in {loss.node: int(loss.node.removeprefix("node ")) for loss in losses}.values():
        verdicts = {loss.verdict for loss in losses if loss.node == f"node {node}"}
        if "FASTER" in verdicts and "SLOWER" not in verdicts:
            return node
    return local


def _nothing_compared(results: Record, gpu: int) -> str:
    own = [cell for cell in results["cells"] if cell["gpu"] == gpu]
    nodes = sorted({cell["mem_node"] for cell in own if cell["throughput_samples_s"]})
    if not nodes:
        return "Nothing was measured: see the failures below."
    if len(nodes) == 1:
        return f"Measured on node {nodes[0]} only: there is no other node to compare with."
    return "No pair of runs to compare: see the failures below."


def _loss(penalty: Record) -> Loss:
    share, interval = penalty["penalty"], penalty.get("interval")
    low, high = interval or (None, None)
    model = penalty["model"]["name"] if isinstance(penalty["model"], dict) else penalty["model"]
    return Loss(
        model,
        f"node {penalty['remote_node']}",
        share,
        low,
        high,
        penalty.get("verdict") or "",
        f"{model} {_told(share, low, high, penalty.get('verdict') or '')}",
        penalty["remote_cell"],
        penalty.get("text") or "",
    )


def _told(share: float, low: float | None, high: float | None, verdict: str) -> str:
    """What is lost, with what is known of it."""
    word = "loses" if share >= 0 else "gains"
    if low is None or high is None:
        return f"{word} {percent(abs(share))} (1 run: no uncertainty known)"
    half = f"{percent(abs(share))} ± {percent((high - low) / 2)}"
    if verdict == "SAME":
        worst = max(high, 0.0)
        return f"loses nothing above {percent(worst)}" if worst else "loses nothing"
    if verdict in ("SLOWER", "FASTER"):
        return f"{word} {half}"
    return f"is undecided ({word} {half})"
