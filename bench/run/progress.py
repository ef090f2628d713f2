"""How far a run is: from its batch counter to a state, a percentage and a line for people."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.units import percent
from bench.workload.progress import LAYOUT, Phase, read_allocating, read_progress


class RunState(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    WARMUP = "warm-up"
    MEASURING = "measuring"
    FINISHING = "finishing"


@dataclass(frozen=True)
class Progress:
    """percent: of the whole run. share: of the batches of this state, None if unknown.

    again: the windows were too short. attempt: its number, and how many there may be. waiting_for: who uses the host
    or the GPU, of a run that waits.
    """

    state: RunState
    percent: int = 1
    share: float | None = None
    again: bool = False
    attempt: tuple[int, int] = (1, 1)
    waiting_for: str = ""

    @property
    def text(self) -> str:
        """ "attempt 2/2, measuring again 40 %", "waiting for /outputs/quick_test/... (pid 7)" """
        if self.state is RunState.WAITING:
            return f"waiting for {self.waiting_for}"
        number, most = self.attempt
        words = [self.state.value, *(["again"] if self.again else [])]
        if self.share is not None:
            words.append(percent(round(self.share, 2), 1))
        return (f"attempt {number}/{most}, " if number > 1 else "") + " ".join(words)


Report = Callable[[Progress], None]

# Where each state begins in the percentage of the whole run. luigi's page hides the message at 0.
_BEGINS = {Phase.START: 1, Phase.WARMUP: 5, Phase.MEASURING: 15, Phase.DONE: 95}
_ENDS = {Phase.START: 5, Phase.WARMUP: 15, Phase.MEASURING: 95, Phase.DONE: 99}
_STATES = {
    Phase.START: RunState.STARTING,
    Phase.WARMUP: RunState.WARMUP,
    Phase.MEASURING: RunState.MEASURING,
    Phase.DONE: RunState.FINISHING,
}


class BatchCounter:
    """The counter of one child, in a file that both map: it depends on batches, never on time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._furthest = 0
        self._last: tuple[Phase, int] = (Phase.START, 0)
        self._again = False
        path.write_bytes(bytes(LAYOUT.size))

    def allocating(self) -> int | None:
        """The cell of a group whose host memory was being allocated last, where that had not ended."""
        return read_allocating(self._path.read_bytes())

    def read(self) -> Progress:
        """The percentage never falls, also when windows that were too short are measured again."""
        done, expected, number = read_progress(self._path.read_bytes())
        phase = Phase(min(number, Phase.DONE))
        self._again = phase == self._last[0] and (self._again or done < self._last[1])
        self._last = (phase, done)
        share = min(done / expected, 1.0) if expected else None
        begin, end = _BEGINS[phase], _ENDS[phase]
        self._furthest = max(self._furthest, int(begin + (share or 0.0) * (end - begin)))
        return Progress(_STATES[phase], self._furthest, share, self._again)
