"""Sets of CPUs or nodes as the kernel writes them: "0-3,8,10-11"."""

from collections.abc import Iterable


def parse_cpulist(text: str) -> tuple[int, ...]:
    """Read a kernel list ("0-3,8"); "" and "none" are the empty set. Raise ValueError on anything else."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        if part in ("", "none"):
            continue
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def format_cpulist(numbers: Iterable[int]) -> str:
    """Write a set as the kernel does, or "none" if it is empty."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "none"
