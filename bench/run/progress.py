"""How far the child is: from its batch counter to a percentage and a line for people."""

import struct
from pathlib import Path

_LAYOUT = struct.Struct("<QII")  # batches done in this phase, batches expected in it, phase
_PHASES = ("starting", "warm-up", "measuring", "finishing")
# Where each phase begins in the percentage of the whole run. luigi's page hides the message at 0.
_BEGINS = (1, 5, 15, 95, 99)


def create_progress(path: Path) -> None:
    path.write_bytes(bytes(_LAYOUT.size))


def read_progress(path: Path) -> tuple[int, str]:
    """(percent of the run, "measuring 40 %"). Moves with the batches, never with the clock."""
    done, expected, phase = _LAYOUT.unpack(path.read_bytes())
    phase = min(phase, len(_PHASES) - 1)
    share = min(done / expected, 1.0) if expected else 0.0
    begin, end = _BEGINS[phase], _BEGINS[phase + 1]
    text = _PHASES[phase] + (f" {share:.0%}".replace("%", " %") if expected else "")
    return int(begin + share * (end - begin)), text
