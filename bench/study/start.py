"""What the start of a valid study refuses, before it creates or measures anything."""

from pathlib import Path

from bench.errors import StudyError
from bench.host.topology import read_topology
from bench.records.host import Topology
from bench.study.comparable import incomparable
from bench.study.cpu_groups import CPU_GROUPS
from bench.study.directory import find
from bench.study.duration import slowest_rate
from bench.study.grid import expand_here
from bench.study.load import StudyDefinition
from bench.study.plan import plan
from bench.units import duration


def refuse_start(definition: StudyDefinition, output_dir: Path, fresh: bool, long: bool, command: str) -> None:
    """Raise StudyError for a new study that would take long without a GPU, or has nothing to compare on this host.

    long: it may take long. command: that of the user, for the advice.
    """
    if not fresh and find(definition, output_dir):
        return
    topology = read_topology()
    # Groups of CPUs are found by the probe, which takes time, and are several.
    if definition.placements != CPU_GROUPS:
        error = incomparable(definition, expand_here(definition, topology).grid, topology)
        if error:
            raise error
    if not long:
        _refuse_long(definition, output_dir, fresh, topology, command)


def _refuse_long(definition: StudyDefinition, output_dir: Path, fresh: bool, topology: Topology, command: str) -> None:
    planned = plan(definition, output_dir, fresh, topology, rate=slowest_rate)
    if planned.needs_long or planned.too_long:
        # The rate of the CPUs is measured only if a slow host would need that long.
        planned = plan(definition, output_dir, fresh, topology)
    if not planned.needs_long or planned.estimate_s is None:
        return
    takes = f"{definition.name} would take about {duration(planned.estimate_s)} on the cpu device"
    smaller = "QuickTest is a smaller study" if definition.name != "quick_test" else "ask for fewer samples or repeats"
    raise StudyError(
        f"{takes} ({planned.estimate_from})",
        "this host has no GPU",
        f"{smaller}; to measure all of it: {command} --long",
    )
