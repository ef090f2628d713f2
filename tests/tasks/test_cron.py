"""The crontab line and the systemd unit that ship, run as cron and systemd would run them."""

import configparser
import fcntl
import re
import shlex
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from bench.study.load import configs_folder
from tests.needs import needs
from tests.tasks.nightly_calls import Nights, made

CRON = configs_folder() / "cron"
# All that Debian's cron gives to a job, and nothing else.
MINIMAL = ["SHELL=/bin/sh", "LOGNAME=nobody", "PATH=/usr/bin:/bin"]


def crontab(places: dict[str, str]) -> tuple[list[str], str]:
    """Its environment with some places of this machine put in, and the command of its one line, as cron reads both."""
    lines = [line for line in (CRON / "crontab").read_text().splitlines() if line and not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    assert places.keys() <= variables.keys()
    (job,) = [line for line in lines if not re.match(r"\w+=", line)]
    command = re.fullmatch(r"(?:\S+\s+){5}(.*)", job)[1]
    # cron ends the command at a bare %, and takes \% for one.
    assert not re.search(r"(?<!\\)%", command)
    return [f"{key}={value}" for key, value in (variables | places).items()], command.replace("\\%", "%")


def unit(places: dict[str, str]) -> tuple[list[str], list[str]]:
    """Its environment likewise, and its argument list."""
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str
    text = (CRON / "numastudy-nightly.service").read_text()
    read.read_string(text)
    variables = dict(line.split("=", 2)[1:] for line in text.splitlines() if line.startswith("Environment="))
    arguments = shlex.split(read["Service"]["ExecStart"].replace("%%", "%"))
    return [f"{key}={value}" for key, value in (variables | places).items() if key != "NUMASTUDY"], arguments


def call(environment: list[str], command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["env", "-i", *MINIMAL, *environment, *command], cwd=folder, capture_output=True, text=True, timeout=800
    )


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    nights = made(tmp_path / "installed here")
    nights.list_studies("tiny.yaml")
    (nights.folder / ".venv").symlink_to(Path(sys.prefix))
    return nights


@pytest.fixture
def places(nights: Nights, tmp_path: Path) -> dict[str, str]:
    return {
        "NUMASTUDY": str(nights.folder),
        "NIGHTLY": str(nights.folder / "nightly.yaml"),
        "OUTPUTS": str(nights.folder / "outputs"),
    }


@pytest.fixture
def one_day() -> None:
    """A night has the date of its start: wait for the next one if it is near."""
    now = datetime.now()
    left_s = (datetime.combine(now.date() + timedelta(days=1), datetime.min.time()) - now).total_seconds()
    if left_s < 600:
        time.sleep(left_s + 1)


@pytest.fixture
def apart(tmp_path: Path) -> list[str]:
    """What keeps a test off this machine's own lock and home; a real job has its own."""
    return [f"HOME={tmp_path}", f"NUMASTUDY_LOCK_DIR={tmp_path}", "OMP_NUM_THREADS=2"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_crontab_line_measures_a_night_silently(one_day, nights, places, apart, tmp_path):
    environment, command = crontab(places)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    good = call([*environment, *apart], ["/bin/sh", "-c", command], elsewhere)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", ""), (
        nights.folder / "outputs/nightly.log"
    ).read_text()
    assert nights.times_measured() == [2]
    assert not list(elsewhere.iterdir())
    assert len(list(nights.folder.glob("outputs/nightly/*/verdict.json"))) == 1
    assert "verdict: " in (nights.folder / "outputs/nightly.log").read_text()

    again = call([*environment, *apart], ["/bin/sh", "-c", command], elsewhere)
    assert (again.returncode, again.stdout) == (0, "")
    assert nights.times_measured() == [2]


@pytest.mark.timeout(1800)
def test_crontab_line_prints_a_failure_with_its_exit_code(nights, places, apart, tmp_path):
    environment, command = crontab(places)
    (nights.folder / "nightly.yaml").write_text("studies: [NoSuchStudy]")
    bad = call([*environment, *apart], ["/bin/sh", "-c", command], tmp_path)
    assert bad.returncode == 2
    assert "ended with exit code 2" in bad.stdout
    assert "no study is named 'NoSuchStudy'" in bad.stdout


def test_crontab_line_ends_while_a_night_is_running(nights, places, apart, tmp_path):
    environment, command = crontab(places)
    (nights.folder / "outputs").mkdir()
    with (nights.folder / "outputs/nightly.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = call([*environment, *apart], ["/bin/sh", "-c", command], tmp_path)
    assert refused.returncode == 75
    assert "ended with exit code 75" in refused.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_systemd_unit_measures_a_night(one_day, nights, places, apart):
    environment, command = unit(places)
    done = call([*environment, *apart], command, nights.folder)
    assert done.returncode == 0, done.stderr
    assert nights.times_measured() == [2]


@needs("systemd-analyze")
def test_systemd_accepts_unit_and_timer(tmp_path):
    for name in ("numastudy-nightly.service", "numastudy-nightly.timer"):
        text = (CRON / name).read_text().replace("User=numastudy\n", "").replace("/opt/numastudy", str(tmp_path))
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "numastudy-nightly.timer")],
        capture_output=True,
        text=True,
    )
    problems = [line for line in done.stderr.splitlines() if "numastudy-nightly" in line]
    assert not problems
    calendar = subprocess.run(["systemd-analyze", "calendar", "*-*-* 01:30:00"], capture_output=True, text=True)
    assert calendar.returncode == 0
