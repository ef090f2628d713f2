"""How far the child is: from its batch counter to a percentage and a line for people."""

from pathlib import Path

from bench.workload.progress import LAYOUT, read_progress

_PHASES = ("starting", "warm-up", "measuring", "finishing")
# Where each phase begins in the percentage of the whole run. luigi's page hides the message at 0.
_BEGINS = (1, 5, 15, 95, 99)


class Progress:
    """The counter of one child, in a file that both map. Moves with the batches, never with the clock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._furthest = 0
        self._seen = (0, 0)
        self._again = False
        path.write_bytes(bytes(LAYOUT.size))

    def read(self) -> tuple[str, int]:
        """("measuring 40 %", percent of the run). The percentage never falls, though windows found too short are
        measured again: then ("measuring again 10 %", as before)."""
        done, expected, phase = read_progress(self._path.read_bytes())
        phase = min(phase, len(_PHASES) - 1)
        self._again = phase == self._seen[0] and (self._again or done < self._seen[1])
        self._seen = (phase, done)
        share = min(done / expected, 1.0) if expected else 0.0
        begin, end = _BEGINS[phase], _BEGINS[phase + 1]
        self._furthest = max(self._furthest, int(begin + share * (end - begin)))
        text = (
            _PHASES[phase]
            + (" again" if self._again else "")
            + (f" {share:.0%}".replace("%", " %") if expected else "")
        )
        return text, self._furthest
