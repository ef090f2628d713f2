"""What some tests need: without it a test is skipped here, and fails in CI (NUMASTUDY_CI=1)."""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec

import pytest

# For each program: what has to be found, and the line that installs it on Debian.
_PROGRAMS = {
    "chromium": (("chromium", "chromedriver"), "apt-get install -y chromium chromium-driver"),
    "g++": (("g++",), "apt-get install -y g++"),
    "nsys": (("nsys",), ".ci/install-nsys"),
    "numactl": (("numactl",), "apt-get install -y numactl"),
    "strace": (("strace",), "apt-get install -y strace"),
    "setpriv": (("setpriv",), "apt-get install -y util-linux"),
    "systemd-analyze": (("systemd-analyze",), "apt-get install -y systemd"),
}

# `@needs("chromium")` on a test, or `pytestmark = needs("chromium")` in a module.
needs = pytest.mark.needs


def in_ci() -> bool:
    return os.environ.get("NUMASTUDY_CI") == "1"


def require(program: str, which: Callable[[str], str | None] = shutil.which) -> None:
    """Skip the running test if the program is missing, with the line that installs it. In CI, fail."""
    executables, install = _PROGRAMS[program]
    missing = [name for name in executables if which(name) is None]
    if missing:
        _give_up(f"{' and '.join(missing)} not installed: {install}")


def require_docs() -> None:
    """Skip the running test, in CI fail, without what builds the site of docs/."""
    if find_spec("material") is None:
        _give_up("mkdocs-material is not installed: make docs")


def require_root() -> None:
    if os.geteuid() != 0:
        _give_up("needs root, to mount file systems or to become another user: sudo make test-all")


def _give_up(reason: str) -> None:
    if in_ci():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def allowed_in_ci(skip_reason: str) -> bool:
    """Only tests of a GPU may be skipped in CI: CI has none."""
    return "GPU" in skip_reason
