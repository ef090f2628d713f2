import gzip
import json
import shutil
import sqlite3

import pytest

from bench.errors import TraceError
from bench.report.analyze import analyze_command
from bench.trace.analyze import analyze_file, analyze_folder
from tests.real_nsys import traced
from tests.trace.oracle import oracle
from tests.trace.test_metrics import contract
from tests.trace.test_torch_trace import gpu_trace
from tests.trace.trace_builder import Launch, pipeline, write


def test_a_file_gives_the_contract_metrics_and_its_name(real_export):
    found = analyze_file(real_export)
    assert contract(found.metrics) == oracle(real_export)
    assert found.metrics.name == real_export.name.removesuffix(".sqlite.gz")
    assert sum(found.per_batch.h2d_ns) == found.metrics.h2d.busy_ns


def test_json_has_the_metrics_and_what_happened_by_batch(eager_export, capsys):
    assert analyze_command(eager_export, as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["compute"]["kernels"] == 1300 and printed["compute"]["device_copies"] == 20
    assert printed["complete"] == {
        "launches": 1360, "recorded": 1360, "untimed": 0, "before_call": 0, "other_threads": 0
    }  # fmt: skip
    assert printed["export"] == {"product": "NVIDIA Nsight Systems", "version": "2025.3.2.0", "schema": "3.20.3"}
    assert len(printed["per_batch"]["latency_ns"]) == printed["batches"] == 20


def test_json_has_a_text_beside_each_remark(tmp_path, capsys):
    path = write(tmp_path / "x.sqlite", pipeline().with_launches(Launch(1005, 1006, 1010, 1020, "h2d", 5, stream=7)))
    assert analyze_command(path, as_json=True) == 0
    [remark] = json.loads(capsys.readouterr().out)["remarks"]
    assert (remark["kind"], remark["count"], remark["total"]) == ("default_stream_copies", 1, 4)
    assert remark["text"].startswith("1 of 4 H2D copies run on the default stream")


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
    assert rows[2]["error"].startswith("not a trace") and rows[2]["advice"]
    assert printed.err.startswith("c: not a trace")


def test_an_export_is_preferred_to_the_report_beside_it(tmp_path):
    write(tmp_path / "nsys_reports" / "x.sqlite", pipeline())
    (tmp_path / "nsys_reports" / "x.nsys-rep").write_bytes(b"never read")
    assert [row.metrics.batches for row in analyze_folder(tmp_path)] == [3]


def test_a_folder_is_searched_by_content(tmp_path):
    (tmp_path / "trace.json").write_text(json.dumps(gpu_trace()))
    (tmp_path / "results.json").write_text('{"schema": 2}')
    write(tmp_path / "y.db", pipeline())
    with sqlite3.connect(tmp_path / "results.db") as db:
        db.execute("CREATE TABLE cells (name)")
    assert [row.metrics.name for row in analyze_folder(tmp_path)] == ["trace", "y"]


def test_a_folder_without_traces_is_an_error(tmp_path):
    with pytest.raises(TraceError, match="no trace in this folder"):
        analyze_folder(tmp_path)


def test_the_text_has_the_key_numbers(eager_export, capsys):
    assert analyze_command(eager_export, as_json=False) == 0
    text = capsys.readouterr().out
    for part in (
        "NVIDIA H200", "20 batches", "launch-bound", "idle 65 %", "p50 3.76 ms", "p99 needs 299 batches",
        "1300 kernels, 20 device copies", "1360 of 1360 launches",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("ending", [".sqlite", ".sqlite.gz", ".nsys-rep", ".trace.json.gz", ".json"])
def test_a_missing_file_is_named(tmp_path, ending):
    with pytest.raises(TraceError, match="No such file") as caught:
        analyze_file(tmp_path / f"none{ending}")
    assert caught.value.where.endswith(f"none{ending}")


@pytest.mark.parametrize("name", ["trace.json", "x.json.gz", "x.db", "x.sqlite", "x"])
def test_a_file_is_known_by_its_content(tmp_path, name):
    path = tmp_path / name
    if "json" in name:
        raw = json.dumps(gpu_trace()).encode()
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    else:
        write(path, pipeline())
    assert analyze_file(path).metrics.name == name.split(".")[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.qdstrm", "the raw stream of nsys"),
        ("x.ncu-rep", "a report of Nsight Compute"),
        ("x.qdrep", "a .qdrep that does not begin like a report"),
        ("x.nsys-rep", "a .nsys-rep that does not begin like a report"),
        ("x.pdf", "not a trace"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(TraceError, match=message) as caught:
        analyze_file(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_an_error_names_the_given_file_and_its_profiler(tmp_path):
    trace = gpu_trace()
    trace["traceEvents"] = [event for event in trace["traceEvents"] if event.get("cat") != "user_annotation"]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace))
    with pytest.raises(TraceError, match="no range in this trace") as caught:
        analyze_file(path)
    assert caught.value.where == str(path)
    assert "record_function" in caught.value.advice and "nsys" not in caught.value.advice


def test_a_report_is_exported_first(real_nsys, tmp_path):
    code, log = traced(tmp_path / "x", "import nvtx; nvtx.push_range('test_double_buffer'); nvtx.pop_range()")
    assert code == 0, log
    with pytest.raises(TraceError, match="no CUDA activity in this trace"):
        analyze_file(tmp_path / "x.nsys-rep")
    shutil.copy(tmp_path / "x.nsys-rep", tmp_path / "cut.nsys-rep")
    (tmp_path / "cut.nsys-rep").write_bytes((tmp_path / "x.nsys-rep").read_bytes()[:5000])
    with pytest.raises(TraceError, match="nsys export failed"):
        analyze_file(tmp_path / "cut.nsys-rep")
