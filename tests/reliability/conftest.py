"""A recorded study, made once by the real workload."""

from pathlib import Path

import pytest

from tests.reliability.killing import ApartCalls
from tests.reliability.stub import record, replay
from tests.tasks.study_calls import Calls


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    return record(Calls(folder / "work", ["--local-scheduler"]), folder)


@pytest.fixture
def calls(tmp_path: Path, recorded: Path) -> ApartCalls:
    """Calls of luigi whose six runs are replays."""
    return _replayed(tmp_path / "work", recorded)


@pytest.fixture
def public_calls(public_path: Path, recorded: Path) -> ApartCalls:
    """The same, in folders that other users may enter."""
    return _replayed(public_path / "work", recorded)


def _replayed(folder: Path, recorded: Path) -> ApartCalls:
    made = ApartCalls(folder, ["--local-scheduler"])
    replay(made, recorded)
    made.study["repeats"] = 2
    made.write()
    return made
