"""Seeded damage to sound files: python -m tests.fuzz.blind TARGET CASES. Prints what broke; exit code 1 if anything."""

import random
import resource
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from tests.fuzz.targets import MOST_BYTES, MOST_S, TARGETS, Target


class Hang(BaseException):
    """Not an Exception: nothing on the way may take it for one of its own."""


def main() -> int:
    name, cases = sys.argv[1], int(sys.argv[2])
    broken = attack(TARGETS[name], cases)
    for text in broken.values():
        print(text, flush=True)
    print(f"{name}: {cases} cases, {len(broken)} broke it", flush=True)
    return 1 if broken else 0


def attack(target: Target, cases: int) -> dict[str, str]:
    """By place in the code, one traceback each and how to make it again."""
    seeds = target.seeds()
    for seed in seeds:  # everything is imported and in the caches before the limit is set
        target.run(seed)
    _limit_memory()
    signal.signal(signal.SIGALRM, _hang)
    broken: dict[str, str] = {}
    for number in range(cases):
        data = damaged(target, seeds, number)
        signal.alarm(MOST_S)
        try:
            target.run(data)
        except (Exception, Hang) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = "".join(traceback.format_exception(error, limit=-6))
            broken.setdefault(f"{last.filename}:{last.lineno}", f"{target.name}, case {number}\n{text}")
        finally:
            signal.alarm(0)
    return broken


def damaged(target: Target, seeds: list[bytes], number: int) -> bytes:
    noise = random.Random(number)
    return target.mutate(noise.choice(seeds), noise)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_BYTES, resource.RLIM_INFINITY))


def _hang(_signal: int, _frame: FrameType | None) -> None:
    raise Hang(f"longer than {MOST_S} s")


if __name__ == "__main__":
    sys.exit(main())
