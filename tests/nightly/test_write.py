import re
import sys

import pytest
from msgspec.structs import replace

from bench.nightly.write import notify, write_night
from bench.records.base import decode
from bench.records.metric import Better, Metric
from bench.records.nightly import (
    Night,
    NightBaseline,
    NightCell,
    NightlyVerdict,
    NightState,
    NightStudy,
    NightWarning,
    NightWarningKind,
    read_night,
)
from bench.records.results import Measure
from bench.records.run import Outcome

CELL = NightCell(
    name="pipeline_gpu0_numa0_<b>", outcome=Outcome.OK, verdict=NightlyVerdict.SLOWER, effect=-0.05,
    interval=(-0.06, -0.04), tonight_samples_s=950.0, baseline_samples_s=1000.0, nights=28, nightly_spread=0.003,
    guarded=True, text="5.0 % slower",
)  # fmt: skip
SAME = replace(CELL, name="quiet", verdict=NightlyVerdict.SAME, effect=0.001, text="no difference")
HEAR = [sys.executable, "-c", "import sys; open('heard', 'a').write(sys.stdin.read() + '\\n')"]


@pytest.fixture
def night(tmp_path):
    return Night(
        night="2026-11-22", host="here", verdict=NightState.SLOWER, text="1 slower: a by 5.0 %", slower=("a",),
        not_measured=("ScalingStudy",), compared=2, level=4e-4,
        warnings=(NightWarning(kind=NightWarningKind.HOST_CHANGED, text="the driver <changed>"),),
        created_at="2026-11-23T01:30:00+00:00", inputs="",
        studies=(
            NightStudy(
                study="NumaStudy", run_directory=str(tmp_path / "numa/a/b"),
                baseline=NightBaseline(nights=("2026-11-20",)), cells=(SAME, CELL),
            ),
            NightStudy(study="ScalingStudy", problem="no GPU here"),
        ),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "nightly" / "2026-11-22"
    folder.mkdir(parents=True)
    return folder


def test_the_page_lists_findings_first_and_links_to_the_report(night, folder):
    write_night(folder, night, [])
    page = (folder / "verdict.html").read_text()
    assert re.findall(r'<tr><th scope="row">([^<]*)', page) == ["gpu0_numa0_&lt;b&gt;", "quiet"]
    assert 'href="../../numa/a/b/report.html"' in page
    assert "no GPU here" in page and "the driver &lt;changed&gt;" in page
    assert "−5.0 %" in page
    assert read_night(folder) == night


def test_the_command_gets_the_verdict_once(night, folder):
    assert write_night(folder, night, HEAR).endswith("was run")
    assert decode((folder / "heard").read_bytes(), Night) == night
    assert write_night(folder, night, HEAR) == ""
    assert write_night(folder, replace(night, slower=("a", "b")), HEAR)
    assert len((folder / "heard").read_text().splitlines()) == 2


def test_the_command_is_not_run_after_a_good_night(night, folder):
    assert write_night(folder, replace(night, verdict=NightState.OK, slower=(), not_measured=()), HEAR) == ""
    assert not (folder / "heard").exists()


def test_arguments_are_passed_without_a_shell(night, folder):
    show = "import sys, pathlib; pathlib.Path('given').write_text(sys.argv[1])"
    write_night(folder, night, [sys.executable, "-c", show, "$HOME; rm -rf *"])
    assert (folder / "given").read_text() == "$HOME; rm -rf *"


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (["/no/such/program"], "cannot be started: No such file"),
        ([sys.executable, "-c", "import sys; sys.exit('mail is down')"], "ended with exit code 1"),
    ],
)
def test_a_failing_command_is_named_and_changes_no_verdict(night, folder, command, part):
    assert part in write_night(folder, night, command)
    assert read_night(folder) == night


def test_the_output_of_the_command_is_kept(night, folder):
    notify([sys.executable, "-c", "import sys; sys.exit('mail is down')"], night, folder)
    assert (folder / "on_regression.log").read_text() == "mail is down\n"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verdict": "ok"}'])
def test_a_damaged_verdict_is_ignored(folder, text):
    (folder / "verdict.json").write_text(text)
    assert read_night(folder) is None


def test_the_page_shows_latencies_that_are_not_the_same(night, folder):
    p99 = replace(
        CELL, name="quiet", effect=1 / 1.1 - 1, tonight_samples_s=1 / 495, baseline_samples_s=1 / 450,
        metric=Metric(value=495.0, unit="us", better=Better.LOWER), text="10 % longer",
    )  # fmt: skip
    others = {Measure.LATENCY_P99: p99, Measure.LATENCY_P50: replace(p99, verdict=NightlyVerdict.SAME)}
    (study, *more) = night.studies
    cells = (replace(SAME, others=others), CELL)
    changed = replace(night, studies=(replace(study, cells=cells), *more))
    write_night(folder, changed, [])
    page = (folder / "verdict.html").read_text()
    assert page.count("<small>p99</small>") == 1 and "<small>p50</small>" not in page
    assert "495 µs" in page.replace("\u202f", " ").replace("\xa0", " ") and "+10" in page
    assert cells[0].worst is NightlyVerdict.SLOWER and read_night(folder) == changed
