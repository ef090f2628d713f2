"""One real Slurm for all checks of this folder, and a recorded study whose runs can be replayed."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.stub import record
from tests.slurm.local_slurm import LocalSlurm, local_slurm, missing_programs
from tests.tasks.study_calls import Calls

NODES = {"n1": "gpu", "n2": "gpu", "n3": "gpu", "n4": "gpu,broken", "n5": "other"}


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurm]:
    """n1, n2, n3 run; n4 is configured and never comes up."""
    if missing := missing_programs():
        pytest.fail(f"{', '.join(missing)} missing: .ci/install-slurm installs them", pytrace=False)
    if os.geteuid():
        pytest.fail("slurmd runs as root only", pytrace=False)
    folder = tmp_path_factory.mktemp("slurm")
    # munged wants no folder on the way to its socket that others may write to, and slurmd reads its own as anybody.
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    with local_slurm(folder / "local", NODES, absent=("n4", "n5")) as made:
        yield made


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    return record(Calls(folder / "work", ["--local-scheduler"]), folder)


@pytest.fixture(autouse=True)
def _empty_queue(slurm: LocalSlurm) -> Iterator[None]:
    yield
    subprocess.run(["scancel", "-u", "root"], env=slurm.environment, timeout=300)
