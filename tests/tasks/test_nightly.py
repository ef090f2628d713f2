"""Nights by real calls of luigi: what is measured, what is printed, and the exit code."""

import json
import re
from pathlib import Path

import pytest
import yaml

from bench.errors import StudyError
from bench.records.nightly import Night, NightState
from bench.records.run import write_record
from tasks.nightly import config_of
from tests.tasks.nightly_calls import CELL, ONE_CELL, Nights, made

FIRST, SECOND = "2025-11-21", "2025-11-22"


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    nights = made(tmp_path / "work")
    nights.list_studies("tiny.yaml", on_regression=["sh", "-c", "cat >> heard; echo >> heard"])
    return nights


def test_list_with_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nightly.yaml"
    path.write_text("studies:\n  - study: QuickTest\n    repeats: 3\n    repeats: 5\n")
    with pytest.raises(StudyError, match="the key repeats is given twice, first in line 3") as refused:
        config_of(str(path))
    assert refused.value.where == f"{path}:4"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_night_is_measured_once(nights: Nights) -> None:
    first = nights.night(FIRST)
    assert first.returncode == 0, first.stderr
    assert nights.times_measured() == [2]
    assert first.stdout.rstrip().splitlines()[-1] == f"verdict: {nights.folder}/outputs/nightly/{FIRST}/verdict.html"

    again = nights.night(FIRST)
    assert again.returncode == 0, again.stderr
    assert nights.times_measured() == [2]

    second = nights.night(SECOND)
    assert second.returncode == 0, second.stderr
    assert nights.times_measured() == [2, 2]
    assert nights.verdict(SECOND)["studies"][0]["cells"][0]["nights"] == 1
    assert "Traceback" not in first.stderr + second.stderr

    by_hand = nights.run()
    assert by_hand.returncode == 0, by_hand.stderr
    assert nights.times_measured() == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_failed_night_exits_30_and_the_next_call_repairs_it(nights: Nights) -> None:
    nights.sabotage(CELL)
    failed = nights.night(FIRST)
    assert failed.returncode == 30, failed.stderr
    verdict = nights.verdict(FIRST)
    assert (verdict["verdict"], verdict["failed"]) == ("failed", [CELL])
    assert "sabotaged for a test" in (nights.folder / f"outputs/nightly/{FIRST}/verdict.html").read_text()
    assert "Traceback" not in failed.stderr
    heard = nights.folder / f"outputs/nightly/{FIRST}/heard"
    assert json.loads(heard.read_text())["failed"] == [CELL]

    nights.repair(CELL)
    resumed = nights.night(FIRST)
    assert resumed.returncode == 0, resumed.stderr
    assert "Traceback" not in resumed.stderr
    assert nights.verdict(FIRST)["verdict"] == "ok"
    assert len(heard.read_text().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_slower_night_is_measured_twice_and_exits_30(nights: Nights) -> None:
    assert nights.night(SECOND).returncode == 0
    nights.pretend_nights(SECOND, 12, factor=30.0)
    nights.list_studies("tiny.yaml", baseline_nights=10)
    (nights.folder / f"outputs/nightly/{SECOND}/verdict.json").unlink()
    for _ in range(2):
        slower = nights.night(SECOND)
        assert slower.returncode == 30, slower.stderr
        assert nights.verdict(SECOND)["slower"] == [CELL]
        # A thirtieth of the nights before, as far as two measurements of a shared machine agree.
        assert re.search(rf"1 slower: {CELL} by ([6-9]\d|100) %", slower.stdout + slower.stderr)
    # One timed run and a traced one, then at least thirteen and a traced one.
    assert nights.times_measured() == [2, 14]
    (cell,) = (cell for study in nights.verdict(SECOND)["studies"] for cell in study["cells"])
    assert "over two measurements of this night" in cell["text"] and cell["second_samples_s"] > 0
    assert (
        f'>{SECOND}</a></td><td data-label="cells ok" class="number">1 of 1</td>'
        '<td data-label="slower" class="number warn">1</td>' in (nights.folder / "outputs/index.html").read_text()
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_studies_of_a_night_run_in_turn_despite_one_failing(
    nights: Nights,
) -> None:
    (nights.folder / "other.yaml").write_text(yaml.safe_dump(ONE_CELL | {"name": "other"}))
    (nights.folder / "gpu.yaml").write_text(yaml.safe_dump(ONE_CELL | {"name": "gpu", "device": "cuda"}))
    nights.list_studies("gpu.yaml", {"study": "tiny.yaml", "repeats": 2}, "other.yaml")
    done = nights.night(FIRST, "--workers", "3")
    assert done.returncode == 30, done.stderr
    verdict = nights.verdict(FIRST)
    assert (verdict["verdict"], verdict["not_measured"]) == ("not_measured", [str(nights.folder / "gpu.yaml")])
    assert [bool(study["problem"]) for study in verdict["studies"]] == [True, False, False]
    started = sorted(
        (json.loads(path.read_text())["started_at"], path.parents[3].name)
        for path in nights.folder.glob("outputs/*/*/*/runs/*.json")
    )
    assert [study for _, study in started] == ["tiny"] * 3 + ["other"] * 2


@pytest.mark.parametrize(
    ("list_text", "expected"),
    [
        ("studies: [QuikTest]", "did you mean QuickTest?"),
        ("studies: [{study: QuickTest, repeat: 3}]", "did you mean repeats?"),
        ("studies: [{study: QuickTest, repeats: many}]", "allowed is a whole number"),
    ],
)
def test_invalid_list_exits_2_before_any_measurement(nights: Nights, list_text: str, expected: str) -> None:
    (nights.folder / "nightly.yaml").write_text(list_text)
    done = nights.night(FIRST)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (nights.folder / "outputs").exists()


def test_night_of_another_host_is_refused(nights: Nights) -> None:
    folder = nights.folder / "outputs/nightly" / FIRST
    folder.mkdir(parents=True)
    known = Night(
        night=FIRST, host="elsewhere", verdict=NightState.OK, text="", compared=0, level=0.05, created_at="",
        history="", studies=(), inputs="",
    )  # fmt: skip
    write_record(folder / "verdict.json", known)
    done = nights.night(FIRST)
    assert done.returncode == 2
    assert "the night of the host elsewhere" in done.stderr


def test_gpu_studies_are_left_out_only_without_any_gpu(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from tasks import nightly

    nights.list_studies("tiny.yaml", {"study": "NumaStudy", "needs_gpu": True})
    file = str(nights.folder / "nightly.yaml")
    for gpus, silent, asked in (((), (), 1), ((), ("0000:01:00.0",), 2), (("GPU",), (), 2)):
        # A stand-in for hosts that this one is not.
        host = SimpleNamespace(gpus=gpus, silent_gpus=silent)
        monkeypatch.setattr(nightly, "read_topology", lambda host=host: host)
        nightly.has_gpu.cache_clear()
        assert len(nightly.entries_of(file)) == asked
    nightly.has_gpu.cache_clear()
