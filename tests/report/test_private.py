"""Secrets planted in every text of every record, and in every file of a bundle, are in no byte of what is passed on."""

import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bench.analysis.load import read_results_file
from bench.errors import StudyError
from bench.records.base import DamagedRecord, convert, plain
from bench.records.host import Check, CheckName, CheckState, Host
from bench.records.results import Damage, Results
from bench.records.run import Doubt, DoubtKind
from bench.report.build import make_report
from bench.report.bundle import bundle
from bench.report.private import HOST, ID, SECRET, USER, Private
from tests.run_directories import build_run_directory
from tests.trace.test_redact import soiled

KNOWN = {"alice": (USER, "alice"), "node17": (HOST, "node17"), "s3cr3t-value": (SECRET, "s3cr3t-value"),
         "GPU-0f1e2d3c": (ID, "GPU-0f1e2d3c")}  # fmt: skip
EXAMPLE = Path(__file__).parents[2] / "docs/reference/example_two_nodes"
HEX = "0123456789abcdef"


def _hex(digits: int) -> st.SearchStrategy[str]:
    # A letter and a digit first, so that it is neither a number nor a word.
    return st.text(HEX, min_size=digits - 2, max_size=digits - 2).map("b7".__add__)


FORMED = st.one_of(
    st.tuples(*map(_hex, (8, 4, 4, 4, 12))).map("-".join),
    st.tuples(*[_hex(2)] * 6).map(":".join),
    st.tuples(*[st.integers(0, 255).map(str)] * 4).map(".".join),
    st.text(HEX, min_size=20, max_size=20).map("ghp_".__add__),
    st.text(HEX, min_size=20, max_size=20).map("hf_".__add__),
    st.text("abcdef", min_size=4, max_size=9).map("/home/{}/model.pt".format),
    st.text("abcdef", min_size=4, max_size=9).map("{}@example.org".format),
    st.text("abcdef", min_size=4, max_size=9).map("https://{}:word@example.org/x".format),
)
BESIDE = st.sampled_from(["", " ", "x ", "'", "(", "="])


@given(FORMED, BESIDE, BESIDE.map(lambda text: text[::-1]))
def test_what_has_a_form_is_replaced(secret: str, before: str, after: str) -> None:
    assert secret not in Private({}).text(f"{before}{secret}{after}")


@given(
    st.sampled_from([*KNOWN]),
    st.sampled_from(["", "x_", "gpu0-", "1.", "a ", "='"]),
    st.sampled_from(["", "_2", "-b", ".pt", "'"]),
)
def test_what_is_known_is_replaced_inside_a_name(word: str, before: str, after: str) -> None:
    assert word not in Private(KNOWN).text(f"{before}{word}{after}")


def test_each_thing_has_one_name() -> None:
    hidden = Private(KNOWN, {"GPU-0f1e2d3c": "GPU-0"})
    text = "node17.example.org: GPU-0f1e2d3c of alice, 10.0.0.1 and 10.0.0.2; alice again, node17 and 10.0.0.1"
    assert hidden.text(text) == ("host_1: GPU-0 of user_1, address_1 and address_2; user_1 again, host_1 and address_1")
    assert hidden.text(hidden.text(text)) == hidden.text(text)


def test_words_of_the_product_stay_whoever_is_called_so() -> None:
    known = {word: (USER, word) for word in ("gpu0", "vit", "cuda", "SLOWER", "test", "batch")}
    for text in ("pipeline_gpu0_numa0_vit0x0x0", "cuda", "SLOWER", "test_h2d_batch_7", "test_double_buffer"):
        assert Private(known).text(text) == text


def planted(value: Any, plant: Callable[[str, str], str], place: str = "") -> Any:
    """The same with every text replaced by plant(place, text); a place is "cells.reason"."""
    if isinstance(value, dict):
        return {name: planted(one, plant, f"{place}.{name}".lstrip(".")) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [planted(one, plant, place) for one in value]
    return plant(place, value) if isinstance(value, str) else value


def places_of(value: Any) -> list[str]:
    found: dict[str, None] = {}

    def note(place: str, text: str) -> str:
        found[place] = None
        return text

    planted(value, note)
    return [*found]


@pytest.fixture(scope="module")
def small() -> Results:
    """A few entries of each kind."""
    found = read_results_file(EXAMPLE / "results.json")
    cut = {
        name: value[:2]
        for name, value in structs.asdict(found).items()
        if isinstance(value, tuple) and name != "recommendations"
    }
    check = Check(name=CheckName.DISK, state=CheckState.WARNING, fact="full", remedy="clean", command="df")
    doubts = {"a_r1": (Doubt(kind=DoubtKind.PAGES, text="9 pages on node 3"),)}
    trust = structs.replace(found.trust, unproved=("a_r1",), unproved_reasons=doubts)
    damaged = (Damage(path="runs/a.json", what="cut off"),)
    return structs.replace(found, **cut | {"preflight": (check,), "damaged": damaged}, trust=trust)


def test_no_text_of_a_record_keeps_a_secret(small: Results) -> None:
    """Into each field in turn; what refuses it is an enum, a number in a text, or a name, which has a form."""
    record = plain(small)
    text = "alice on node17 with s3cr3t-value, GPU-0f1e2d3c, 10.20.30.40 and /home/someone/x"
    tried = {place for place in places_of(record) if is_clean_with(record, place, text)}
    assert {"cells.reason", "cells.advice", "cells.text", "penalties.text", "penalties.hint", "cells.runs.run"} <= tried
    assert {"host", "fingerprint.kernel", "topology.gpus.uuid", "preflight.fact", "preflight.remedy"} <= tried
    assert {"trust.unproved_reasons.a_r1.text", "damaged.what", "study.question", "cells.gpu_uuid"} <= tried
    others = [place for place in places_of(record) if place not in tried]
    assert "study.name" in [place for place in others if is_clean_with(record, place, "alice_node17-s3cr3t-value")]


def is_clean_with(record: Any, place: str, text: str) -> bool:
    """False where the field does not take the text."""
    try:
        found = convert(planted(record, lambda here, old: text if here == place else old), Results)
    except DamagedRecord:
        return False
    left = json.dumps(plain(Private(KNOWN).record(found)))
    for secret in ("alice", "node17", "s3cr3t", "0f1e2d3c", "10.20.30.40", "someone"):
        assert secret not in left, (place, secret)
    return True


def test_what_would_be_no_record_is_refused(small: Results) -> None:
    class Odd(Private):
        def text(self, text: str) -> str:
            return "not a name" if text == small.study.name else text

    with pytest.raises(StudyError, match="rename what is named after"):
        Odd({}).record(small)


@pytest.fixture(scope="module")
def spoiled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Secrets in every field of the stored results and of the host that takes them, and in the texts of a trace."""
    run = build_run_directory(tmp_path_factory.mktemp("private") / "run", "quick_test", {"repeats": 1})
    for export in (run / "nsys_reports").iterdir():
        export.unlink()
    make_report(run, "test")
    for file, kind in (("results.json", Results), ("topology.json", Host)):
        record = json.loads((run / file).read_text())
        for place in places_of(record):
            for secret in (" alice node17.example.org 10.20.30.40 s3cr3t-value", "_alice-node17_s3cr3t-value"):
                changed = planted(record, lambda here, old: f"{old}{secret}" if here == place else old)  # noqa: B023
                try:
                    convert(changed, kind)
                except DamagedRecord:
                    continue
                record = changed
                break
        record["host"] = "node17"
        for gpu in record.get("topology", record)["gpus"]:
            gpu["uuid"] = f"GPU-0f1e2d3c-1111-2222-3333-44445555666{gpu['index']}"
        (run / file).write_text(json.dumps(record))
    return run


@pytest.mark.slow
def test_no_byte_of_a_bundle_has_a_secret(spoiled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "alice")
    monkeypatch.setenv("SOME_TOKEN", "s3cr3t-value")
    trace = soiled(spoiled_run / "nsys_reports/pipeline_gpu0_numa0_vit0x0x0.sqlite", "nsys")
    with sqlite3.connect(trace) as db:
        db.execute("CREATE TABLE TARGET_INFO_GPU (id INTEGER, name TEXT, busLocation TEXT, uuid TEXT)")
        db.execute(
            "INSERT INTO TARGET_INFO_GPU VALUES (0, 'alice s3cr3t-value', '', '0f1e2d3c-1111-2222-3333-444455556660')"
        )
        db.execute("UPDATE StringIds SET value = value || ' s3cr3t-value of alice on node17'")
    db.close()
    with zipfile.ZipFile(bundle(spoiled_run, tmp_path / "x.zip").path) as archive:
        content = {name.partition("/")[2]: name.encode() + archive.read(name) for name in archive.namelist()}
    for name, raw in content.items():
        for secret in (b"alice", b"node17", b"s3cr3t", b"0f1e2d3c", b"10.20.30.40"):
            assert secret not in raw, (name, secret)
    assert b"GPU-0" in content["topology.json"] and b"host_1" in content["report.html"]
