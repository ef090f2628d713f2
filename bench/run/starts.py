"""Starts of a run, counted on disk: a cell that takes the host down is given up."""

from pathlib import Path

from bench.files import write_text
from bench.run.processes import boot_id

STARTS_THAT_TOOK_THE_HOST_DOWN = 3


def unended(record: Path) -> Path:
    """Where the starts of a run are noted until its record is there."""
    return record.with_suffix(".starts")


def count_start(record: Path) -> int:
    """Note this start on disk, before the child starts; return how many earlier ones ended with the host going down.

    A start that wrote no record in the same boot was only killed, and says nothing about the cell.
    """
    path, boot = unended(record), boot_id()
    boots = path.read_text().split() if path.exists() else []
    write_text(path, "\n".join([*boots, boot]))
    return sum(earlier != boot for earlier in boots)
