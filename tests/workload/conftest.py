import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def one_cpu() -> Iterator[None]:
    """torch takes a thread per allowed CPU; on a busy machine they would wait for each other for seconds."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    yield
    os.sched_setaffinity(0, allowed)
