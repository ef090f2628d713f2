"""The Trace Event Format, by its types and by the rules of its tracks, with the metrics of the same trace as oracle.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings

from bench.cli import main
from bench.report.build import make_report
from bench.report.perfetto import events, median_and_slowest, perfetto
from bench.trace.activities import Kind
from bench.trace.batches import per_batch
from bench.trace.intervals import union
from bench.trace.metrics import metrics
from bench.trace.reader import Trace, read_trace
from tests.run_directories import quick_run
from tests.trace.trace_builder import built_traces, pipeline, write

TRACES = Path(__file__).parents[1] / "fixtures/traces"
CELL = "pipeline_gpu0_numa0_vit0x0x0"
STAGES = {"copy in": "h2d_ns", "compute": "compute_ns", "copy out": "d2h_ns"}


class Slice(msgspec.Struct, forbid_unknown_fields=True, tag_field="ph", tag="X"):
    name: str
    cat: str
    pid: int
    tid: int
    ts: Annotated[float, msgspec.Meta(ge=0)]
    dur: Annotated[float, msgspec.Meta(ge=0)]
    args: dict[str, int | None]


class Named(msgspec.Struct, forbid_unknown_fields=True, tag_field="ph", tag="M"):
    name: Literal["process_name", "thread_name", "process_sort_index"]
    pid: int
    tid: int
    args: dict[str, str | int]


class File(msgspec.Struct, forbid_unknown_fields=True):
    displayTimeUnit: Literal["ms", "ns"]
    otherData: dict[str, str | int]
    traceEvents: list[Slice | Named]


def read(text: str) -> File:
    return msgspec.json.decode(text, type=File, strict=False)


def slices(trace: Trace) -> tuple[list[Slice], dict[tuple[int, int], str]]:
    """Slices, and the titles of tracks by (process, track)."""
    found = msgspec.convert(list(events(trace)), list[Slice | Named], strict=False)
    titles = {(one.pid, one.tid): str(one.args["name"]) for one in found
              if isinstance(one, Named) and one.name == "thread_name"}  # fmt: skip
    return [one for one in found if isinstance(one, Slice)], titles


def check_tracks(found: list[Slice]) -> None:
    """Slices of a track follow each other."""
    tracks: dict[tuple[int, int], list[Slice]] = {}
    for one in found:
        tracks.setdefault((one.pid, one.tid), []).append(one)
    for own in tracks.values():
        ordered = sorted(own, key=lambda one: (one.ts, one.ts + one.dur))
        assert all(one.ts + one.dur <= after.ts + 1e-6 for one, after in pairwise(ordered))


@pytest.mark.parametrize("name", ["h200_vit32x6x512_eager", "h100_vit32x2x128_cuda_graph"])
def test_stages_of_a_real_trace_are_as_long_as_in_its_metrics(name: str) -> None:
    trace = read_trace(TRACES / f"{name}.sqlite.gz")
    found, titles = slices(trace)
    check_tracks(found)
    columns = per_batch(trace)
    for process, (batch, length) in enumerate(median_and_slowest(trace).values(), 1):
        assert columns.latency_ns[batch] == length
        own = [one for one in found if one.pid == process and one.args["batch"] == batch + 1 and one.tid]
        for title, column in STAGES.items():
            spans = [(round(1e3 * one.ts), round(1e3 * (one.ts + one.dur))) for one in own
                     if titles[process, one.tid].startswith(title)]  # fmt: skip
            starts, ends = zip(*spans, strict=True)
            assert (
                union(np.array(starts, np.int64), np.array(ends, np.int64)).length == getattr(columns, column)[batch]
            ), title
    assert median_and_slowest(trace)["slowest"][1] / 1e3 == metrics(trace).latency_us.max


@settings(max_examples=15)
@given(built_traces())
def test_tracks_of_any_trace_are_in_order(tmp_path_factory, built) -> None:
    path = write(tmp_path_factory.mktemp("trace") / "x.sqlite", built)
    found, _ = slices(read_trace(path))
    check_tracks(found)
    assert {one.pid for one in found} <= {1, 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = quick_run(tmp_path_factory.mktemp("run") / "run")
    make_report(path, "test")
    shutil.copy(TRACES / "h200_vit32x6x512_eager.sqlite.gz", path / f"nsys_reports/{CELL}.sqlite")
    return path


def test_the_file_names_its_batches(run: Path) -> None:
    found = read(perfetto(run))
    names = [
        str(one.args["name"]) for one in found.traceEvents if isinstance(one, Named) and one.name == "process_name"
    ]
    assert names[0].startswith("median batch: number ") and names[1].startswith("slowest batch: number ")
    assert found.otherData["cell"] == CELL


@pytest.mark.parametrize("below", ["", "results.json"])
def test_command_prints_the_trace_of_a_cell(run: Path, below: str) -> None:
    done = CliRunner().invoke(main, ["convert", str(run / below), "--to", "perfetto", "--cell", CELL])
    assert done.exit_code == 0 and read(done.output).traceEvents


def test_of_equal_batches_the_middle_one_is_the_median(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "x.sqlite", pipeline(batches=3)))
    assert median_and_slowest(trace) == {"median": (1, 100), "slowest": (2, 100)}


def test_batches_copied_one_way_have_a_length_too(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "x.sqlite", pipeline(batches=3)))
    one_way = replace(trace, activities=trace.activities.at(np.flatnonzero(trace.activities.kind != Kind.D2H)))
    assert median_and_slowest(one_way) == {"median": (1, 80), "slowest": (2, 80)}
