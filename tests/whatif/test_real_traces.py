"""Real traces of nsys and torch.profiler: the graph reproduces them, and the command answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.records.base import convert
from bench.records.whatif import WhatIf
from bench.trace.analyze import as_export
from bench.trace.export import open_export
from bench.whatif.graph import build
from bench.whatif.read import read_program
from bench.whatif.replay import Scenario, Stretches, Way, replay

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"
NAMES = sorted(path.name for path in TRACES.iterdir())


def built(path):
    with as_export(path) as plain, open_export(plain, path) as export:
        return build(read_program(export))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", [Way(), Way(inferred=False), Way(engines=False)])
def test_replay_without_a_change_is_the_trace(name, way):
    cut = Stretches(built(TRACES / name), way)
    activities = cut.graph.program.activities
    found = replay(cut, [Scenario()]).ends(np.arange(len(activities)))
    assert np.abs(found[:, 0] - activities.end).max() <= 1


def answered(*arguments):
    result = CliRunner().invoke(main, ["whatif", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize("name", NAMES)
def test_every_real_trace_is_answered(name):
    code, text = answered(TRACES / name)
    assert code in (0, 3), text
    assert text.startswith("Placement of memory can slow this program")
    code, text = answered(TRACES / name, "--json")
    found = convert(json.loads(text), WhatIf)
    for gpu in found.gpus:
        for copies in gpu.copies:
            assert 0 <= copies.at_least <= copies.at_most < 1
            if copies.estimate:
                assert copies.at_least - 0.001 <= copies.estimate[0] <= copies.estimate[1] <= copies.at_most + 0.001


def test_both_profilers_see_the_same_program():
    nsys, torch = (
        convert(json.loads(answered(TRACES / f"h200_vit32x2x128_eager_{name}", "--json")[1]), WhatIf).gpus[0]
        for name in ("nsys.sqlite.gz", "torch.json.gz")
    )
    assert (nsys.h2d.bytes, nsys.d2h.bytes, nsys.h2d.copies) == (torch.h2d.bytes, torch.d2h.bytes, torch.h2d.copies)


def test_part_of_a_trace_is_chosen_by_a_range_or_by_times():
    path = TRACES / "h200_vit32x6x512_eager.sqlite.gz"
    whole = json.loads(answered(path, "--json")[1])["gpus"][0]
    ranged = json.loads(answered(path, "--nvtx", "test_double_buffer", "--json")[1])["gpus"][0]
    timed = json.loads(answered(path, "--to", "3000", "--json")[1])["gpus"][0]
    assert ranged["window_ms"] < whole["window_ms"]
    assert timed["window_ms"] < 3000
    assert answered(path, "--nvtx", "nothing*")[0] == 2
    assert answered(path, "--nvtx", "test_double_buffer", "--from", "1")[0] == 2


def test_untraced_time_narrows_the_estimate():
    path = TRACES / "h200_vit32x6x512_eager.sqlite.gz"
    traced, given = (
        convert(json.loads(answered(path, "--json", *more)[1]), WhatIf) for more in ((), ("--untraced", "3000"))
    )
    width = [one.gpus[0].copies[3].estimate[1] - one.gpus[0].copies[3].estimate[0] for one in (traced, given)]
    assert width[1] < width[0] / 5
    assert 0 < given.cpu_factor < 1
    assert given.gpus[0].copies[3].at_most < traced.gpus[0].copies[3].at_most
