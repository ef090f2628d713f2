import json
import re
import sys

import pytest

from bench.nightly.folder import read_verdict
from bench.nightly.write import notify, write_night

CELL = {
    "name": "pipeline_gpu0_numa0_<b>", "verdict": "SLOWER", "effect": -0.05, "interval": [-0.06, -0.04],
    "tonight_samples_s": 950.0, "baseline_samples_s": 1000.0, "nights": 28, "nightly_spread": 0.003,
    "guarded": True, "text": "5.0 % slower", "too_noisy": False,
}  # fmt: skip
SAME = CELL | {"name": "quiet", "verdict": "SAME", "effect": 0.001, "text": "no difference"}
HEAR = [sys.executable, "-c", "import sys; open('heard', 'a').write(sys.stdin.read() + '\\n')"]


@pytest.fixture
def night(tmp_path):
    return {
        "night": "2026-11-22", "host": "here", "verdict": "slower", "text": "1 slower: a by 5.0 %", "slower": ["a"],
        "failed": [], "not_measured": ["ScalingStudy"], "faster": [], "too_noisy": [], "compared": 2,
        "level": 4e-4, "warnings": ["the driver <changed>"], "created_at": "2026-11-23T01:30:00+00:00", "inputs": "",
        "studies": [
            {"study": "NumaStudy", "run_directory": str(tmp_path / "numa/a/b"), "problem": "", "changes": [],
             "baseline": {"kind": "median of the nights", "nights": ["2026-11-20"], "left_out": []},
             "cells": [SAME, CELL]},
            {"study": "ScalingStudy", "run_directory": None, "problem": "no GPU here", "changes": [], "cells": []},
        ],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "nightly" / "2026-11-22"


def test_the_page_names_what_is_wrong_first_and_leads_to_the_report(night, folder):
    write_night(folder, night, [])
    page = (folder / "verdict.html").read_text()
    assert re.findall(r'<tr><th scope="row">([^<]*)', page) == ["gpu0_numa0_&lt;b&gt;", "quiet"]
    assert 'href="../../numa/a/b/report.html"' in page
    assert "no GPU here" in page and "the driver &lt;changed&gt;" in page
    assert "−5.0 %" in page
    assert read_verdict(folder) == night


def test_the_command_hears_the_verdict_once(night, folder):
    assert write_night(folder, night, HEAR).startswith("on_regression: told")
    assert json.loads((folder / "heard").read_text()) == night
    assert write_night(folder, night, HEAR) == ""
    assert write_night(folder, night | {"slower": ["a", "b"]}, HEAR)
    assert len((folder / "heard").read_text().splitlines()) == 2


def test_a_good_night_tells_nobody(night, folder):
    assert write_night(folder, night | {"verdict": "ok", "slower": [], "not_measured": []}, HEAR) == ""
    assert not (folder / "heard").exists()


def test_arguments_are_given_as_they_are_without_a_shell(night, folder):
    show = "import sys, pathlib; pathlib.Path('given').write_text(sys.argv[1])"
    write_night(folder, night, [sys.executable, "-c", show, "$HOME; rm -rf *"])
    assert (folder / "given").read_text() == "$HOME; rm -rf *"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/no/such/program"], "cannot be started: No such file"),
        ([sys.executable, "-c", "import sys; sys.exit('mail is down')"], "ended with exit code 1"),
    ],
)
def test_a_command_that_fails_is_named_and_costs_nothing(night, folder, command, said):
    assert said in write_night(folder, night, command)
    assert read_verdict(folder) == night


def test_what_a_command_says_is_kept(night, folder):
    folder.mkdir(parents=True)
    notify([sys.executable, "-c", "import sys; sys.exit('mail is down')"], night, folder)
    assert (folder / "on_regression.log").read_text() == "mail is down\n"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verdict": "ok"}'])
def test_half_a_verdict_is_none(folder, text):
    folder.mkdir(parents=True)
    (folder / "verdict.json").write_text(text)
    assert read_verdict(folder) is None
