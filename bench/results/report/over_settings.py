"""A place in one sentence where every model was compared under several settings."""

from typing import Any

from bench.results.effects import listed
from bench.results.words import at_most, percent

Losses = list[Any]
# As many can be named one by one.
LONGEST_LIST = 8


def is_crowded(losses: Losses) -> bool:
    return len(losses) > LONGEST_LIST and len(_by_model(losses)) < len(losses)


def crowded_line(place: str, losses: Losses) -> str:
    """ "On node 1 vit0x0x0 loses 12 % (bs1) to 30 % (bs8) in 3 of 4 settings and nothing above 1 % in 1; ..."."""
    groups = sorted(_by_model(losses).items(), key=lambda group: -max(loss.share for loss in group[1]))
    said = [f"{model} {_model(own)}" for model, own in groups if any(_differs(loss) for loss in own)]
    same = [model for model, own in groups if all(_same(loss) for loss in own)]
    if same:
        bound = _bound([loss for loss in losses if loss.label.split(" ")[0] in same])
        verb = "loses" if len(same) == 1 else "lose"
        said.append(f"{listed(same)} {verb} nothing above {bound} in any setting")
    rest = [model for model, own in groups if not any(_differs(one) for one in own) and model not in same]
    if rest:
        said.append(f"{listed(rest)}: {_rest([loss for loss in losses if loss.label.split(' ')[0] in rest])}")
    return f"On {place} " + "; ".join(said) + "."


def _model(losses: Losses) -> str:
    parts = []
    for slower in (True, False):
        own = [loss for loss in losses if _differs(loss) and (loss.share >= 0) is slower]
        if own:
            verb = ("" if any(loss.sure for loss in own) else "probably ") + ("loses" if slower else "gains")
            parts.append(f"{verb} {_range(own)} in {len(own)} of {len(losses)} settings")
    others = [loss for loss in losses if not _differs(loss)]
    return " and ".join(parts) + (f" ({_rest(others)})" if others else "")


def _rest(losses: Losses) -> str:
    same = [loss for loss in losses if _same(loss)]
    said = [f"nothing above {_bound(same)} in {len(same)}"] if same else []
    if len(losses) > len(same):
        said.append(f"too noisy to tell in {len(losses) - len(same)}")
    return ", ".join(said)


def _range(losses: Losses) -> str:
    """Least and most, each with its settings: "4.2 % (bs1) to 30 % (bs32 graph)"."""
    ends = [pick(losses, key=lambda loss: abs(loss.share)) for pick in (min, max)]
    low, high = (percent(abs(loss.share)) for loss in ends)
    if low == high:
        return low
    low_at, high_at = (loss.label.partition(" ")[2] or "base" for loss in ends)
    return f"{low} to {high}" if low_at == high_at else f"{low} ({low_at}) to {high} ({high_at})"


def _bound(losses: Losses) -> str:
    return at_most(max(max(loss.interval[1], 0.0) for loss in losses))


def _differs(loss: Any) -> bool:
    return loss.verdict in ("SLOWER", "FASTER")


def _same(loss: Any) -> bool:
    return loss.verdict == "SAME" and loss.interval is not None


def _by_model(losses: Losses) -> dict[str, Losses]:
    groups: dict[str, Losses] = {}
    for loss in losses:
        groups.setdefault(loss.label.split(" ")[0], []).append(loss)
    return groups
