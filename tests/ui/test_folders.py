"""Folders of outputs as pages: what a study's page says while it is measured, when it stopped, and at its end."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from bench.report.build import make_report
from bench.run.lock import LOCK_DIR_VARIABLE
from bench.storage import boot_id, start_ticks
from bench.ui.folders import folder_page
from tests.run_directories import build_run_directory, topology_json

RUN = "quick_test/2026-11-30/08-00-00"


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    build_run_directory(tmp_path / "outputs" / RUN, "quick_test", topology=topology_json(gpus=0, nodes=1))
    return tmp_path / "outputs"


@pytest.fixture
def run(outputs: Path) -> Path:
    """The runs of a cell are still to come."""
    for record in (outputs / RUN / "runs").glob("*vit32x4x512_*"):
        record.unlink()
    return outputs / RUN


@pytest.fixture
def measured_now(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """By this process, as its lock says."""
    monkeypatch.setenv(LOCK_DIR_VARIABLE, str(tmp_path))
    holder = {"uid": os.geteuid(), "pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "boot": boot_id(),
              "study": str(run), "since": "2026-11-30 08:00:00"}  # fmt: skip
    (tmp_path / f"numastudy-{os.geteuid()}.holder").write_text(json.dumps(holder) + "\n")
    return run


def text_of(folder: Path, outputs: Path, with_records: bool = True, paused: bool = False) -> tuple[str, bool]:
    """Without markup; whether it is to be loaded again."""
    page = folder_page(folder, outputs, with_records, paused)
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.text, flags=re.S).split()), page.changing


def test_a_study_that_is_measured_says_how_far_it_is(measured_now, outputs):
    text, changing = text_of(measured_now, outputs)
    assert changing
    assert "Does everything work on this machine?" in text
    assert f"It is measured now, since 2026-11-30 08:00:00, by process {os.getpid()}." in text
    assert "4 of 6 runs have ended" in text and "0 runs failed" in text
    assert re.search(r"[\d.]+ s to go", text)
    assert re.search(r"gpu0_numa0_vit32x2x256 repeat|gpu0_numa0_vit32x2x256 \S+ ok [\d,]+ samples/s", text)
    assert "Leave it as it is" in text
    assert "Keep it up to date" in text_of(measured_now, outputs, paused=True)[0]


def test_the_outputs_name_what_is_measured_now(measured_now, outputs):
    text, changing = text_of(outputs, outputs)
    assert changing and "2026-11-30 08:00:00 quick_test measured now" in text


def test_a_study_that_was_stopped_says_how_it_goes_on(run, outputs):
    text, changing = text_of(run, outputs)
    assert not changing
    assert "Not complete, and nothing measures it now. The command that began it continues from here." in text


def test_a_study_may_wait_for_another_one(measured_now, outputs):
    other = outputs / "other/2026-11-30/09-00-00"
    shutil.copytree(measured_now, other)
    text, _ = text_of(other, outputs)
    assert f"nothing measures it now: this host measures {measured_now}, for which it may wait." in text


def test_a_finished_study_leads_to_its_report_and_says_what_its_files_hold(outputs):
    run = outputs / RUN
    assert "All runs have ended. There is no report" in text_of(run, outputs)[0]
    make_report(run, "test")
    page = folder_page(run, outputs, with_records=True)
    assert page.text.index('href="./report.html">The report') < page.text.index("The last runs")
    assert "every cell, and every comparison" in page.text and 'href="./logs/"' in page.text


@pytest.mark.parametrize(
    ("below", "words"),
    [("", "Every study of this folder."), ("quick_test", "The runs of this study, by date."),
     (f"{RUN}/logs", "The output of each process"), (f"{RUN}/latency", "What the traces hold")],
)  # fmt: skip
def test_a_folder_says_what_it_is(outputs, below, words):
    assert words in text_of(outputs / below, outputs)[0]


def test_names_only_are_for_other_users(measured_now, outputs):
    text, changing = text_of(measured_now, outputs, with_records=False)
    assert not changing
    assert "runs have ended" not in text and "Does everything work" not in text
    assert "grid.json" in text and "runs/" in text
    assert "measured now" not in text_of(outputs, outputs, with_records=False)[0]


def test_a_damaged_study_is_still_a_page(run, outputs):
    (run / "grid.json").write_text("{")
    text, _ = text_of(run, outputs)
    assert "Not known how far it is" in text and "grid.json" in text
    assert "quick_test / 2026-11-30 / 08-00-00" in text


def test_the_study_file_of_a_command_hides_no_run(outputs):
    (outputs / "quick_test/study.yaml").write_text("name: quick_test\n")
    text, _ = text_of(outputs / "quick_test", outputs)
    assert "Not known how far it is" not in text
    assert "The runs of this study, by date." in text and "2026-11-30 08:00:00 quick_test none yet" in text


def test_links_that_lead_nowhere_hide_no_folder(outputs):
    (outputs / "loop").symlink_to("loop")
    (outputs / "loops/2026-11-30").mkdir(parents=True)
    (outputs / "loops/2026-11-30/08-00-00").symlink_to("08-00-00")
    text, _ = text_of(outputs, outputs)
    assert "loop " in text and "quick_test none yet" in text


def test_what_another_user_keeps_private_hides_no_study(outputs, monkeypatch):
    private = outputs / "other/2026-11-30/09-00-00"
    private.mkdir(parents=True)
    stat = os.stat

    def denied(path, *args, **kwargs):
        if str(path).startswith(f"{private}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", denied)
    assert "quick_test none yet" in text_of(outputs, outputs)[0]


def test_markup_in_names_is_text(outputs):
    (outputs / "<b>bold").mkdir()
    page = folder_page(outputs, outputs, with_records=True).text
    assert "<b>bold" not in page and "&lt;b&gt;bold/" in page and "./%3Cb%3Ebold/" in page


def test_an_empty_folder(tmp_path):
    (tmp_path / "outputs").mkdir()
    assert "Empty." in text_of(tmp_path / "outputs", tmp_path / "outputs")[0]
    shutil.rmtree(tmp_path / "outputs")
    with pytest.raises(OSError):
        folder_page(tmp_path / "outputs", tmp_path / "outputs", with_records=True)
