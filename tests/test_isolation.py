"""What tests/conftest.py and tests/needs.py promise to every other test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import require

PROJECT = Path(__file__).parents[1]

SKIPPING = """
import pytest

def test_skips():
    pytest.skip({reason!r})
"""


def test_home_directory_is_unusable() -> None:
    for access in (lambda: Path.home().joinpath("file").write_text("x"), lambda: [*Path.home().iterdir()],
                   lambda: Path.home().joinpath("folder").mkdir(parents=True)):  # fmt: skip
        with pytest.raises(OSError):
            access()


def test_home_directory_is_unusable_in_a_child_process() -> None:
    program = "from pathlib import Path; Path.home().joinpath('.cache').mkdir()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "NotADirectoryError" in done.stderr


def test_missing_program_skips_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMASTUDY_CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="numactl not installed: apt-get install -y numactl"):
        require("numactl", which=lambda _: None)


def test_missing_program_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMASTUDY_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="chromedriver not installed: apt-get"):
        require("chromium", which=lambda name: None if name == "chromedriver" else name)


@pytest.mark.parametrize(
    ("reason", "ci", "exit_code"), [("no time", "1", 1), ("no time", "", 0), ("needs a CUDA GPU", "1", 0)]
)
def test_skip_fails_the_session_in_ci(tmp_path: Path, reason: str, ci: str, exit_code: int) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING.format(reason=reason))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.conftest", "-c", "/dev/null",
         "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=PROJECT, env=os.environ | {"NUMASTUDY_CI": ci, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert ("skipped in CI" in done.stdout) is bool(exit_code)
