from collections.abc import Callable
from pathlib import Path

import pytest

from tests.host.made_hosts import TRAPS, write_host


@pytest.fixture
def trap_root(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: write_host(tmp_path / name, TRAPS[name].files)
