"""Numbers as people read them. None, which is "not known", is a dash everywhere."""

import math
import re
from collections.abc import Sequence

NONE = "–"


def rate(samples_s: float | None) -> str:
    """Samples per second in four significant digits."""
    return NONE if samples_s is None else f"{significant(samples_s, 4):,.{_places(samples_s, 4)}f}"


def microseconds(value: float | None) -> str:
    if value is None:
        return NONE
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    return f"{value / 1e3:.{_places(value / 1e3, 3)}f} ms" if value >= 1e3 else f"{value:.{_places(value, 3)}f} µs"


def bandwidth(gb_s: float | None) -> str:
    return NONE if gb_s is None else f"{gb_s:.{_places(gb_s, 3)}f}"


def percent(share: float | None, digits: int = 2) -> str:
    """A share in percent with at least `digits` significant digits, never more than two places."""
    if share is None:
        return NONE
    value = 100 * share
    return f"{value:.{min(_places(value, digits), 2)}f} %"


def share_with_interval(share: float, interval: Sequence[float] | None) -> str:
    """The size of a penalty, and the half width of its interval where that tells something: "30 % ± 0.5 %"."""
    if interval is None or tells_nothing((interval[0], interval[1])):
        return percent(abs(share))
    return with_half(abs(share), (interval[1] - interval[0]) / 2)


def signed_share(share: float, interval: Sequence[float] | None) -> str:
    """The same with its sign; what is shown as zero has none."""
    text = share_with_interval(share, interval)
    return f"−{text}" if share < 0 and re.match(r"[^±]*[1-9]", text) else text


def tells_nothing(interval: tuple[float, float]) -> bool:
    """interval: of a penalty. It goes from less than half to more than twice the throughput: no reader is helped by
    its ends."""
    return interval[0] < -1 and interval[1] > 0.5


def with_half(share: float, half: float) -> str:
    """A share and the half width of its interval, both to the digits that the latter supports: 30 % ± 0.5 %."""
    value, width = 100 * share, 100 * half
    places = 2 if width < 0.1 else 1 if width < 1.95 else 0
    return f"{value:.{places}f} % ± {max(width, 0.01):.{places}f} %"


def at_most(share: float) -> str:
    """A bound in percent, rounded up to two significant digits: never claims more than was found."""
    hundredths = max(math.ceil(share * 1e4 - 1e-9), 1)
    step = 10 ** max(len(str(hundredths)) - 2, 0)
    return f"{math.ceil(hundredths / step) * step / 100:g} %"


def seconds(value: float | None) -> str:
    if value is None:
        return NONE
    if value < 90:
        return f"{value:.1f} s"
    if round(value) < 600:
        return f"{round(value) // 60} min {round(value) % 60} s"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def size(value_bytes: float | None) -> str:
    if value_bytes is None:
        return NONE
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value_bytes >= scale:
            return f"{value_bytes / scale:.{_places(value_bytes / scale, 3)}f} {unit}"
    return f"{value_bytes:.0f} B"


def significant(value: float, digits: int) -> float:
    if not value or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _places(value: float, digits: int) -> int:
    if not value or not math.isfinite(value):
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))
