"""hosts/<host>/job.json: what the job of a host last said of itself."""

from typing import Any

from bench.cluster.directory import ClusterDirectory
from bench.errors import StudyError
from bench.storage import read_json

RUNNING, DRAINED, STOPPED, ENDED, STUCK = "running", "drained", "stopped", "ended", "stuck"


def last_word(directory: ClusterDirectory, host: str) -> dict[str, Any]:
    """job.json; {} if no job has started there."""
    try:
        found = read_json(directory.job_record(host))
    except (OSError, StudyError):
        return {}
    return found if isinstance(found, dict) else {}
