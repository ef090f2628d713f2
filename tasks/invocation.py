"""What all tasks of one call of luigi share: its id, and the lock of the host. Forked workers inherit both."""

import uuid
from functools import cache

from bench.run.lock import HostLock

INVOCATION = uuid.uuid4().hex[:12]


@cache
def host_lock() -> HostLock:
    """Opened when the first study is resolved, before workers are forked: they must share the open file."""
    return HostLock()
