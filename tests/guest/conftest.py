"""A recorded study, and virtual machines in which it is replayed."""

from collections.abc import Iterator

import pytest

from tests.guest.files import missing
from tests.guest.machine import Machine
from tests.reliability.conftest import recorded

__all__ = ["machine", "recorded"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if lacking := missing():
        pytest.fail(f"missing: {', '.join(lacking)}; .ci/install-guest installs what Debian has of it", pytrace=False)
    made = Machine(tmp_path_factory.mktemp("machine"))
    made.boot()
    try:
        yield made
    finally:
        made.cut_power()
