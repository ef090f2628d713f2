"""Hosts of one type compared: outliers in what they measured, and differences in their settings. Pure, no files.

The rule for an outlier, for one quantity of one cell over the hosts of a type. With x the logarithms of the hosts'
values: centre = median(x), scale = the largest of
  - 1.4826 b(n) median|x - centre| over the hosts of this cell (the MAD; b(n) makes it unbiased for few hosts),
  - the same pooled over the cells that are compared together, because few hosts determine a spread badly,
  - the hosts' own standard error (median over the hosts): how far a host's value moves from process to process.
A host is an outlier if |x - centre| > 5 scale and the host is off by more than the study's margin.
At least three hosts are needed: two that differ do not show which one is wrong.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from bench.host.fingerprint import LABELS, NOT_COMPARED
from bench.records.cluster import Compared, Difference, HostType, Outlier, Quantity
from bench.records.host import Fingerprint
from bench.records.results import LinkEntry, MeasuredCell, NoiseClass, Results

# Croux and Rousseeuw, Time-efficient algorithms for two highly robust estimators of scale (1992), section 3.
_SMALL_SAMPLE = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
NORMAL = 1.4826
SCALES = 5.0
LEAST_HOSTS = 3
# GPU ids differ everywhere; the names are part of the type.
_NOT_A_SETTING = NOT_COMPARED | {"gpus"}
# The name of a cell or a link.
Name = str


@dataclass(frozen=True)
class Value:
    """A host's value (> 0), and its own relative standard error where it was measured repeatedly."""

    value: float
    error: float | None = None


def host_type(results: Results) -> str:
    """Hosts of one type have the same CPU and the same GPUs, in the same number."""
    names = Counter(gpu.name for gpu in results.topology.gpus)
    gpus = ", ".join(f"{count} x {name}" for name, count in sorted(names.items())) or "no GPU"
    return f"{gpus}; {results.fingerprint.cpu or 'unknown CPU'}"


def compare_type(name: str, results: Mapping[str, Results], margin: float) -> HostType:
    """results: by host, all of one type."""
    classes = _noise_classes(cell for one in results.values() for cell in one.cells)
    # By quantity and noise class: the spread of cells that hardly vary is not that of cells that do.
    values: dict[tuple[Quantity, tuple[NoiseClass, Name]], dict[Name, dict[str, Value]]] = {}
    for host, one in results.items():
        for quantity, cell, value in [*_of_cells(one.cells), *_of_links(one.links)]:
            group = values.setdefault((quantity, classes.get(cell, (NoiseClass.DEVICE_BOUND, ""))), {})
            group.setdefault(cell, {})[host] = value
    units = {cell.name: cell.metric.unit for one in results.values() for cell in one.cells if cell.metric}
    compared = [
        replace(one, unit=units[one.cell]) if quantity is Quantity.METRIC else one
        for (quantity, _), cells in values.items()
        for one in compare_hosts(quantity, cells, margin)
    ]
    return HostType(
        name=name,
        hosts=tuple(results),
        compared=tuple(compared),
        outliers=tuple(_outlier(one, host) for one in compared for host in one.outliers),
        differences=tuple(differences({host: settings_of(one) for host, one in results.items()})),
    )


def _noise_classes(cells: Iterable[MeasuredCell]) -> dict[Name, tuple[NoiseClass, Name]]:
    """By cell the noise class that it has on most hosts: a host that is slow enough to be in another class must not be
    hidden by the spread there. A cell whose class no host knows is a group of its own."""
    votes: dict[Name, Counter[NoiseClass]] = {}
    for cell in cells:
        own = votes.setdefault(cell.name, Counter())
        if cell.noise_class is not NoiseClass.UNKNOWN:
            own[cell.noise_class] += 1
    return {
        name: (max(own, key=own.__getitem__), "") if own else (NoiseClass.UNKNOWN, name) for name, own in votes.items()
    }


def _of_cells(cells: Iterable[MeasuredCell]) -> Iterable[tuple[Quantity, Name, Value]]:
    for cell in cells:
        spread, runs = cell.spread, len(cell.values)
        if cell.value:
            error = spread / math.sqrt(runs) if spread is not None and runs > 1 else None
            yield Quantity.METRIC if cell.metric else Quantity.THROUGHPUT, cell.name, Value(cell.value, error)
        if cell.metrics:
            for quantity, copies in ((Quantity.H2D_LINK, cell.metrics.h2d), (Quantity.D2H_LINK, cell.metrics.d2h)):
                if copies.link_gb_s:
                    yield quantity, cell.name, Value(copies.link_gb_s)


def _of_links(links: Iterable[LinkEntry]) -> Iterable[tuple[Quantity, Name, Value]]:
    for link in links:
        measured = (
            (Quantity.H2D_COPIES, link.nvbandwidth_h2d_gb_s),
            (Quantity.D2H_COPIES, link.nvbandwidth_d2h_gb_s),
            (Quantity.SMALL_COPY, link.small_copy_us),
        )
        for quantity, value in measured:
            if value:
                yield quantity, link.name, Value(value)


def _outlier(one: Compared, host: str) -> Outlier:
    return Outlier(
        host=host,
        cell=one.cell,
        quantity=one.quantity,
        unit=one.unit,
        value=one.values[host],
        median=one.median,
        offset=one.outliers[host],
        scale=one.scale,
    )


def compare_hosts(quantity: Quantity, cells: Mapping[Name, Mapping[str, Value]], margin: float) -> list[Compared]:
    """cells: by name the values by host, of one noise class. Values that are not above zero are ignored."""
    kept = {cell: _usable(values) for cell, values in cells.items()}
    logs = {cell: {host: math.log(one.value) for host, one in values.items()} for cell, values in kept.items()}
    pooled = _pooled_scale([list(values.values()) for values in logs.values()])
    return [_compare(cell, quantity, kept[cell], logs[cell], pooled, margin) for cell in kept if kept[cell]]


def small_sample(n: int) -> float:
    return _SMALL_SAMPLE.get(n, n / (n - 0.8)) if n > 1 else 1.0


def _usable(values: Mapping[str, Value]) -> dict[str, Value]:
    return {host: one for host, one in values.items() if math.isfinite(one.value) and one.value > 0}


def _deviations(values: Sequence[float]) -> list[float]:
    centre = statistics.median(values)
    return [abs(value - centre) for value in values]


def _scale(deviations: Sequence[float], hosts: int) -> float:
    return NORMAL * small_sample(hosts) * statistics.median(deviations) if deviations else 0.0


def _pooled_scale(cells: Sequence[Sequence[float]]) -> float:
    """Each cell's deviations with the correction for its own number of hosts."""
    scaled = [
        deviation * small_sample(len(values))
        for values in cells
        if len(values) >= LEAST_HOSTS
        for deviation in _deviations(values)
    ]
    return NORMAL * statistics.median(scaled) if scaled else 0.0


def _compare(
    cell: Name, quantity: Quantity, values: Mapping[str, Value], logs: Mapping[str, float], pooled: float, margin: float
) -> Compared:
    errors = [one.error for one in values.values() if one.error is not None]
    within = statistics.median(errors) if errors else None
    centre = statistics.median(logs.values())
    scale = max(_scale(_deviations(list(logs.values())), len(logs)), pooled, within or 0.0)
    offsets = {host: math.expm1(value - centre) for host, value in logs.items()}
    outliers = {
        host: offset
        for host, offset in offsets.items()
        if len(logs) >= LEAST_HOSTS and abs(logs[host] - centre) > SCALES * scale and abs(offset) > margin
    }
    return Compared(
        cell=cell,
        quantity=quantity,
        unit=quantity.unit,
        median=math.exp(centre),
        scale=scale,
        within=within,
        values={host: one.value for host, one in values.items()},
        outliers=outliers,
    )


def settings_of(results: Results) -> dict[str, str]:
    """What can differ between hosts of a type, by name: the fingerprint, each GPU's link, the states of the checks."""
    facts = {
        LABELS.get(fact, fact): getattr(results.fingerprint, fact)
        for fact in Fingerprint.__struct_fields__
        if fact not in _NOT_A_SETTING
    }
    for gpu in results.topology.gpus:
        facts[f"GPU {gpu.index}: PCIe link"] = f"generation {gpu.link_generation_max}, {gpu.link_width} lanes"
        facts[f"GPU {gpu.index}: nearest node"] = "unknown" if gpu.node is None else str(gpu.node)
        facts[f"GPU {gpu.index}: ECC"] = "unknown" if gpu.ecc is None else "on" if gpu.ecc else "off"
    for check in results.preflight:
        # The fact of a check contains current figures; its state should be the same.
        facts[f"numastudy doctor: {check.name}"] = check.state
    return facts


def differences(hosts: Mapping[str, Mapping[str, str]]) -> list[Difference]:
    """hosts: settings by host, all of one type. A host without a setting has "not recorded"."""
    names = list(dict.fromkeys(name for settings in hosts.values() for name in settings))
    found = []
    for name in names:
        values = {host: settings.get(name) or "not recorded" for host, settings in hosts.items()}
        (most, count), *_ = Counter(values.values()).most_common()
        if count < len(values):
            usual = most if count > len(values) // 2 else None
            others = {host: value for host, value in values.items() if value != usual}
            found.append(Difference(setting=name, usual=usual, others=others))
    return found
