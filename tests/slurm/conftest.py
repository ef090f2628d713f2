"""One real Slurm for all checks of this folder, and a recorded study whose runs can be replayed."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.folders import folder_for_everybody
from tests.reliability.stub import record
from tests.slurm.local_slurm import LocalSlurm, local_slurm, missing_programs
from tests.tasks.study_calls import Calls

NODES = {"n1": "gpu", "n2": "gpu", "n3": "gpu", "n4": "gpu,broken", "n5": "other"}


@pytest.fixture(scope="session")
def slurm() -> Iterator[LocalSlurm]:
    """n1, n2, n3 run; n4 is configured and never comes up."""
    if missing := missing_programs():
        pytest.fail(f"{', '.join(missing)} missing: .ci/install-slurm installs them", pytrace=False)
    if os.geteuid():
        pytest.fail("slurmd runs as root only", pytrace=False)
    # munged wants no folder on the way to its socket that others may write to, and slurmd reads its own as anybody.
    with (
        folder_for_everybody() as folder,
        local_slurm(folder / "local", NODES, absent=("n4", "n5")) as made,
    ):
        yield made


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    return record(Calls(folder / "work", ["--local-scheduler"]), folder)


@pytest.fixture(autouse=True)
def _empty_queue(slurm: LocalSlurm) -> Iterator[None]:
    yield
    subprocess.run(["scancel", "-u", "root"], env=slurm.environment, timeout=300)
