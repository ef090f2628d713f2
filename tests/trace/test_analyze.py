import gzip
import json
import shutil

import pytest

from bench.errors import TraceError
from bench.trace.analyze import analyze_command, analyze_path
from tests.real_nsys import traced
from tests.trace.oracle import oracle
from tests.trace.trace_builder import pipeline, write


def test_a_file_gives_the_contract_metrics_and_its_name(real_export):
    found = analyze_path(real_export)
    expected = oracle(real_export)
    found["latency_us"].pop("reasons")
    assert {key: found[key] for key in expected} == expected
    assert found["name"] == real_export.name.removesuffix(".sqlite.gz")
    assert sum(found["per_batch"]["h2d_ns"]) == found["h2d"]["busy_ns"]


def test_a_folder_gives_a_list_and_a_broken_file_harms_no_other(tmp_path, capsys):
    write(tmp_path / "b.sqlite", pipeline())
    (tmp_path / "a.sqlite.gz").write_bytes(gzip.compress((tmp_path / "b.sqlite").read_bytes()))
    (tmp_path / "c.sqlite").write_bytes(b"nothing")
    (tmp_path / "notes.txt").write_text("not a trace")
    assert analyze_command(tmp_path, as_json=True) == 2
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["window_ns"] == rows[1]["window_ns"] == 300
    assert rows[2]["error"] == "not a SQLite export"
    assert printed.err.startswith("c: not a SQLite export")


def test_an_export_is_preferred_to_the_report_beside_it(tmp_path):
    write(tmp_path / "nsys_reports" / "x.sqlite", pipeline())
    (tmp_path / "nsys_reports" / "x.nsys-rep").write_bytes(b"never read")
    assert [row["batches"] for row in analyze_path(tmp_path)] == [3]


def test_a_folder_without_traces_is_told(tmp_path):
    with pytest.raises(TraceError, match="no trace in this folder"):
        analyze_path(tmp_path)


def test_conservation_is_checked_against_what_is_known(graph_export):
    known = {"name": "cell", "batches_per_pass": 200, "bytes_in_per_batch": 6_021_120, "bytes_out_per_batch": 256_000}
    assert analyze_path(graph_export, known)["name"] == "cell"
    with pytest.raises(TraceError, match="D2H copies of the trace carry 51200000 bytes"):
        analyze_path(graph_export, known | {"bytes_out_per_batch": 1})


def test_the_text_says_what_matters(eager_export, capsys):
    assert analyze_command(eager_export, as_json=False) == 0
    text = capsys.readouterr().out
    for part in ("NVIDIA H200", "20 batches", "launch-bound", "idle 64.7%", "p50 3757.6", "p99 needs 100 batches"):
        assert part in text


@pytest.mark.parametrize("ending", [".sqlite", ".sqlite.gz", ".nsys-rep", ".trace.json.gz"])
def test_a_missing_file_is_named(tmp_path, ending):
    with pytest.raises(TraceError) as caught:
        analyze_path(tmp_path / f"none{ending}")
    assert caught.value.where.endswith(f"none{ending}")


def test_a_report_is_exported_first(real_nsys, tmp_path):
    code, log = traced(tmp_path / "x", "import nvtx; nvtx.push_range('test_double_buffer'); nvtx.pop_range()")
    assert code == 0, log
    with pytest.raises(TraceError, match="no CUDA activity in this trace"):
        analyze_path(tmp_path / "x.nsys-rep")
    shutil.copy(tmp_path / "x.nsys-rep", tmp_path / "cut.nsys-rep")
    (tmp_path / "cut.nsys-rep").write_bytes((tmp_path / "x.nsys-rep").read_bytes()[:5000])
    with pytest.raises(TraceError, match="nsys export failed"):
        analyze_path(tmp_path / "cut.nsys-rep")
