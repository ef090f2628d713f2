"""`numastudy analyze --range`: the metrics of ranges of another program."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.errors import TraceError
from bench.trace.analyze import analyze_file
from tests.trace.trace_builder import OTHER_THREAD, THREAD, Launch, pipeline, write

TRACE = Path(__file__).parents[1] / "fixtures" / "traces" / "h200_vit32x6x512_eager.sqlite.gz"


def renamed(built, window="step [1]*"):
    ranges = [(window if name.startswith("test_batch_") else name, *rest) for name, *rest in built.ranges]
    return replace(built, ranges=tuple(row for row in ranges if row[0] == window))


def test_each_range_of_the_name_is_a_batch(tmp_path):
    write(tmp_path / "own.sqlite", pipeline(batches=5))
    write(tmp_path / "other.sqlite", renamed(pipeline(batches=5)))
    own = analyze_file(tmp_path / "own.sqlite")
    other = analyze_file(tmp_path / "other.sqlite", "own", "step [1]*")
    assert other == own


def test_copies_need_not_be_in_every_range(tmp_path):
    built = renamed(pipeline(batches=3))
    built = replace(built, launches=tuple(one for one in built.launches if one.kind == "kernel"))
    write(tmp_path / "x.sqlite", built)
    found = analyze_file(tmp_path / "x.sqlite", range_name="step [1]*").metrics
    assert (found.batches, found.h2d.copies, found.compute.kernels) == (3, 0, 3)
    assert found.latency_us.p50 is None


def test_command_takes_the_name():
    result = CliRunner().invoke(main, ["analyze", str(TRACE), "--range", "test_double_buffer", "--json"])
    assert (result.exit_code, json.loads(result.output)["batches"]) == (0, 1)


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ((), "no range absent in this trace"),
        ((("absent", 1000, 1100, THREAD), ("absent", 1050, 1200, THREAD)), "overlap"),
        ((("absent", 1000, 1100, THREAD), ("absent", 1150, 1200, OTHER_THREAD)), "2 ranges absent on 2 threads"),
        ((("absent", 1000, None, THREAD),), "never closed"),
        ((("absent", 90000, 90100, THREAD),), "no CUDA API call inside the window"),
    ],
)
def test_ranges_that_are_no_window_are_refused(tmp_path, more, error):
    built = pipeline().with_ranges(*more).with_launches(Launch(1, 2, 3, 4, "kernel"))
    write(tmp_path / "x.sqlite", built)
    with pytest.raises(TraceError, match=error):
        analyze_file(tmp_path / "x.sqlite", range_name="absent")
