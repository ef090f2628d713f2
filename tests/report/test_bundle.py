"""What a bundle holds, and that nothing private is in it, searched byte by byte."""

import json
import pwd
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bench.analysis.load import read_results, read_results_file
from bench.cli import main
from bench.errors import StudyError
from bench.records.base import convert, plain
from bench.records.command import Command
from bench.records.results import CellRemark, CellRemarkKind, Results
from bench.records.run import Doubt, DoubtKind
from bench.records.study import Model, Study
from bench.report import bundle as module
from bench.report import private
from bench.report.build import make_report
from bench.report.bundle import Bundle, bundle
from bench.report.private import LEFT_OUT, Private
from bench.trace.analyze import analyze_file
from tests.report.made import cell, results
from tests.run_directories import quick_run
from tests.trace.test_redact import SECRETS, soiled

CANARY = "canary"
HOST = "canary-node17.canary.example"
FAILED = "pipeline_gpu0_numa0_vit0x0x0"


@pytest.fixture(scope="module")
def soiled_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run directory with something private in every place that a host, a user or a program can write to."""
    run = quick_run(tmp_path_factory.mktemp("canary") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("USER", "canaryperson")
        patch.setenv("SOME_API_KEY", "canary_5f3a9c_value")
        soil(run)
        yield run


def soil(run: Path) -> None:
    texts = [
        "cannot open /home/canary/model.pt", f"{HOST} did not answer", "canaryperson may not", "canary_5f3a9c_value is",
        "open '/data/canary folder/x'", "https://canary:word@host/x failed", "token=canary", "ghp_canary0123456789abcd",
    ]  # fmt: skip
    path = run / "topology.json"
    host = json.loads(path.read_text())
    host["host"] = host["fingerprint"]["host"] = HOST
    path.write_text(json.dumps(host))
    for file in (run / "runs").glob("*.json"):
        record = json.loads(file.read_text())
        record["command"], record["fingerprint"]["host"] = ["/home/canary/bin/python", "--canary"], HOST
        record["failed_before"] = texts[0]
        if record["run"] == f"{FAILED}_r1":
            record |= {"status": "crashed", "reason": "; ".join(texts), "log_tail": texts, "advice": texts[0]}
        file.write_text(json.dumps(record))
    checks = [{"name": "disk", "state": "warn", "fact": texts[0], "remedy": texts[4]}]
    (run / "preflight.json").write_text(json.dumps({"status": "ok", "checks": checks}))
    (run / "links/canary.json").parent.mkdir(exist_ok=True)
    (run / "logs/canary.stdout").write_text(CANARY)
    for export in (run / "nsys_reports").iterdir():
        export.unlink()
    soiled(run / f"nsys_reports/{FAILED}.sqlite", "nsys")
    make_report(run, "canary")
    stored = json.loads((run / "results.json").read_text())
    stored["cells"][0]["text"] = CANARY
    (run / "results.json").write_text(json.dumps(stored))


@pytest.fixture(scope="module")
def made(soiled_run: Path) -> Bundle:
    return bundle(soiled_run, soiled_run.parent / "x.zip")


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {name.partition("/")[0] for name in archive.namelist()} == {"quick_test"}
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def test_nothing_private_is_in_a_bundle(soiled_run, made):
    raw = (soiled_run / "results.json").read_bytes() + (soiled_run / "report.html").read_bytes()
    assert raw.count(CANARY.encode()) > 20
    for name, content in members(made.path).items():
        for secret in (CANARY, str(soiled_run), str(soiled_run.parent), *SECRETS[1:]):
            assert secret.encode() not in content, (name, secret)


def test_a_bundle_has_the_study_as_far_as_it_is_not_private(soiled_run, made, tmp_path):
    files = members(made.path)
    assert [*files] == sorted(files) == [
        "README.txt", f"nsys_reports/{FAILED}.sqlite", "report.html", "report.md", "results.csv", "results.json",
        "study.yaml", "topology.json",
    ]  # fmt: skip
    assert made.sizes == {name: len(content) for name, content in files.items()}
    (tmp_path / "results.json").write_bytes(files["results.json"])
    before, after = read_results(soiled_run), read_results_file(tmp_path / "results.json")
    assert [one.throughput_samples_s for one in after.cells] == [one.throughput_samples_s for one in before.cells]
    assert [one.name for one in after.cells] == [one.name for one in before.cells]
    assert after.fingerprint == structs.replace(before.fingerprint, host="host_1")
    crashed = next(one for one in after.cells if one.name == FAILED)
    assert crashed.reason == (
        "cannot open /path_2; host_1 did not answer; user_1 may not; secret_1 is; open '/path_1'; address_1 failed; "
        "token=secret_2 secret_3"
    )
    (tmp_path / "t.sqlite").write_bytes(files[f"nsys_reports/{FAILED}.sqlite"])
    assert analyze_file(tmp_path / "t.sqlite").metrics.batches == 3


def test_a_bundle_can_be_read_by_the_commands(made, tmp_path):
    shutil.unpack_archive(made.path, tmp_path / "there")
    (folder,) = (tmp_path / "there").iterdir()
    for words in (("advise", folder), ("convert", folder, "--to", "bencher"), ("plan", folder / "study.yaml")):
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == 0, done.output
    page = (folder / "report.html").read_text()
    assert f'href="nsys_reports/{FAILED}.sqlite"' in page and 'href="logs/' not in page


def test_the_same_study_gives_the_same_bytes(soiled_run, made, tmp_path):
    moved = shutil.copytree(soiled_run, tmp_path / "elsewhere/run")
    assert bundle(moved, tmp_path / "again.zip").path.read_bytes() == made.path.read_bytes()


def test_a_file_that_exists_stays(soiled_run, tmp_path):
    (tmp_path / "x.zip").write_text("mine")
    with pytest.raises(StudyError, match="stays as it is"):
        bundle(soiled_run, tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_text() == "mine"


def test_traces_beyond_the_limit_are_named_and_left_out(soiled_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_TRACE_BYTES", 1000)
    done = CliRunner().invoke(main, ["bundle", str(soiled_run), "-o", str(tmp_path / "x.zip")])
    assert f"trace left out: {FAILED}.sqlite (" in done.output and "1000 B at most together" in done.output
    files = members(tmp_path / "x.zip")
    assert "trace left out" in files["README.txt"].decode() and not [name for name in files if "sqlite" in name]


def test_a_bundle_without_traces_says_so(soiled_run, tmp_path):
    done = CliRunner().invoke(main, ["bundle", str(soiled_run), "-o", str(tmp_path / "x.zip"), "--no-traces"])
    assert "0 traces" in done.output and "--no-traces" in members(tmp_path / "x.zip")["README.txt"].decode()


def test_a_user_without_name_and_home_writes_a_bundle(soiled_run, tmp_path, monkeypatch):
    """As in a container that is started with any user id. The kernel keeps this user; only its names are taken."""

    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    done = CliRunner().invoke(main, ["bundle", str(soiled_run), "-o", str(tmp_path / "x.zip"), "--no-traces"])
    assert done.exit_code == 0, done.exception


def test_a_study_without_a_report_is_refused(tmp_path):
    run = quick_run(tmp_path / "run")
    with pytest.raises(StudyError, match="the results cannot be used"):
        bundle(run, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def test_a_command_keeps_its_program_only():
    block = Command(run=("/home/canary/serve", "--key", "canary"), server=("python3", "canary.py"), env={"A": "canary"},
                    cwd="/home/canary", evict=("/home/canary/x",), ready="http://canary/")  # fmt: skip
    model = Model(name="serve", patch_size=0, depth=0, dim=0, heads=0, command=block)
    remarks = tuple(
        CellRemark(kind=kind, other="canary was waived", count=1, total=3)
        for kind in (CellRemarkKind.OF_OUTPUT, CellRemarkKind.SECOND_ATTEMPT)
    )
    one = structs.replace(
        cell(), model=model, outcome="crashed", reason="canary said no", advice="ask canary", log_tail=("canary",),
        remarks=remarks,
    )  # fmt: skip
    study = convert(plain(results().study) | {"command": plain(block)}, Study)
    hidden = Private({})
    found = results((one,))
    texts = ("canary: worker (1234): 9 pages on node 3",
             "canary (12): 2 thread(s) (canary, canary)) may run on CPUs 0-7, not only on node 1")  # fmt: skip
    doubts = tuple(Doubt(kind=DoubtKind.PAGES, text=text) for text in texts)
    trust = structs.replace(found.trust, unproved_reasons={"a_r1": doubts})
    clean = hidden.record(convert(plain(structs.replace(found, study=study, trust=trust)), Results))
    assert [one.text for one in clean.trust.unproved_reasons["a_r1"]] == [
        "a process: 9 pages on node 3", "a process: 2 thread(s) may run on CPUs 0-7, not only on node 1",
    ]  # fmt: skip
    assert clean.cells[0].remarks == tuple(structs.replace(remark, other=LEFT_OUT) for remark in remarks)
    assert CANARY not in json.dumps(plain(clean))
    assert clean.cells[0].model.command == Command(run=("serve",), server=("python3",), env={"A": ""})
    assert clean.cells[0].reason == LEFT_OUT


@given(st.sampled_from(["", "at ", "'", '"', "file://", "x=", "pt2:"]), st.text("abc ./-", max_size=8))
def test_no_path_survives_whatever_stands_beside_it(before, after):
    text = Private({}).text(f"{before}/home/canary/x.py {after}")
    assert CANARY not in text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("node17.canary.example did not answer.", "host_1 did not answer."),
        ("node17: no answer", "host_1: no answer"),
        ("[fe80::1ff:fe23]:22 refused", "[address_1]:22 refused"),
        ("from 2001:db8:0:0:0:0:2:1 to ::1", "from address_1 to ::1"),
    ],
)
def test_what_a_host_is_called_elsewhere_is_replaced(text, clean):
    """The record has the short name, a program may print the long one."""
    assert Private({"node17": (private.HOST, "node17")}).text(text) == clean


@pytest.mark.parametrize(
    "text",
    ["GPU 0 at 0000:01:00.0", "at 10:20:30 UTC", "c10::cuda failed: a::b::call",
     "54.0 GB/s and 1/2", "echo 0 > /proc/sys/kernel/numa_balancing", "p50 / p99", "29.6 % slower [29.4, 29.9] %",
     "/sys/bus/pci is not readable", "pipeline_gpu0_numa0", "run numactl, or --binding none"],
)  # fmt: skip
def test_what_is_the_same_everywhere_stays(text):
    assert Private({}).text(text) == text
