import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

HOSTS = Path(__file__).parents[1] / "fixtures" / "hosts"
TRAPS = sorted(path.name for path in (HOSTS / "traps").iterdir())


@pytest.fixture
def trap_root(tmp_path: Path) -> Callable[[str], Path]:
    """Lay a trap's files over the clean host."""

    def build(name: str) -> Path:
        root = tmp_path / name
        shutil.copytree(HOSTS / "two_sockets", root)
        shutil.copytree(HOSTS / "traps" / name, root, dirs_exist_ok=True)
        return root

    return build
