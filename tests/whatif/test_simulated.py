"""Simulated programs with a known answer, of seeds that were not used while the rules were made."""

import numpy as np
import pytest

from bench.trace.export import open_export
from bench.whatif.answer import Interval, whatif
from bench.whatif.graph import build
from bench.whatif.read import read_program
from bench.whatif.replay import Scenario, Stretches, Way, replay
from tests.whatif.simulator import execute, program, write

FACTORS = (1.25, 2.0, 3.0)
SEEDS = range(2000, 2006)


def read(path, run, **how):
    write(path, run, **how)
    with open_export(path) as export:
        return read_program(export), export.tool


def predicted(read_trace, **cpu):
    graph = build(read_trace)
    found = replay(Stretches(graph, Way()), [Scenario(factor, **cpu) for factor in (1.0, *FACTORS)])
    span = found.span(np.arange(len(graph.program.activities)))
    return 1 - span[0] / span[1:]


def true_losses(steps, seed, run):
    return [1 - run.span / execute(steps, seed, copies=factor).span for factor in FACTORS]


@pytest.mark.parametrize("kind", ["ring", "serial", "prefetch"])
@pytest.mark.parametrize("seed", SEEDS)
def test_slower_copies_are_predicted_to_a_point(tmp_path, kind, seed):
    steps = program(kind, seed)
    run = execute(steps, seed)
    found, _ = read(tmp_path / "x.sqlite", run)
    assert predicted(found) == pytest.approx(true_losses(steps, seed, run), abs=0.01)


@pytest.mark.parametrize("kind", ["ring", "serial"])
def test_slower_copies_are_predicted_without_event_records(tmp_path, kind):
    steps = program(kind, 2000)
    run = execute(steps, 2000)
    found, tool = read(tmp_path / "x.sqlite", run, events=False)
    assert predicted(found) == pytest.approx(true_losses(steps, 2000, run), abs=0.02)
    assert whatif(found, "x", tool, Interval(), None).has_event_records == (kind == "serial")


@pytest.mark.parametrize("kind", ["ring", "serial", "prefetch", "random"])
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_bounds_hold(tmp_path, kind, seed):
    steps = program(kind, seed)
    run = execute(steps, seed)
    found, tool = read(tmp_path / "x.sqlite", run)
    [gpu] = whatif(found, "x", tool, Interval(), None).gpus
    for copies in gpu.copies:
        truth = 1 - run.span / execute(steps, seed, copies=copies.factor).span
        assert copies.at_least - 0.005 <= truth <= copies.at_most + 0.005
        if kind != "random" and copies.estimate:
            assert copies.estimate[0] - 0.01 <= truth <= copies.estimate[1] + 0.01


@pytest.mark.parametrize("kind", ["ring", "serial", "prefetch"])
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_untraced_time_corrects_a_slow_profiler(tmp_path, kind, seed):
    steps = program(kind, seed)
    traced, untraced = execute(steps, seed, traced=True), execute(steps, seed)
    found, tool = read(tmp_path / "x.sqlite", traced)
    [gpu] = whatif(found, "x", tool, Interval(), untraced.span / 1e6).gpus
    for copies in gpu.copies:
        truth = 1 - untraced.span / execute(steps, seed, copies=copies.factor).span
        assert copies.at_least - 0.005 <= truth <= copies.at_most + 0.005
        assert copies.estimate[0] - 0.02 <= truth <= copies.estimate[1] + 0.02


@pytest.mark.parametrize("kind", ["ring", "serial", "prefetch"])
@pytest.mark.parametrize("factor", [1.1, 1.3])
def test_bound_of_a_slower_cpu_holds(tmp_path, kind, factor):
    steps = program(kind, 2001)
    run = execute(steps, 2001)
    found, tool = read(tmp_path / "x.sqlite", run)
    [gpu] = whatif(found, "x", tool, Interval(), None).gpus
    [bound] = [one for one in gpu.cpu if one.factor == factor]
    truth = 1 - run.span / execute(steps, 2001, cpu=factor).span
    assert bound.at_least - 0.01 <= truth <= bound.at_most + 0.005


@pytest.mark.parametrize("seed", [2003, 2006], ids=["blocking", "synchronized"])
@pytest.mark.parametrize("shift", [10_000, 50_000])
def test_clock_of_the_gpu_that_is_ahead_is_set_back(tmp_path, shift, seed):
    steps = program("serial", seed)
    run = execute(steps, seed)
    found, _ = read(tmp_path / "x.sqlite", run, shift=shift)
    graph = build(found)
    assert shift - 5000 <= graph.shifted_ns <= shift + 5000
    assert predicted(found) == pytest.approx(true_losses(steps, seed, run), abs=0.02)
