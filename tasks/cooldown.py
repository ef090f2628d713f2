"""A scheduler ignores a task that is asked for again within seconds of its end. Wait those seconds out."""

import time

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.interface import core

from bench.study.directory import RunDirectory

# luigid's default stable_done_cooldown_secs. `make ui` sets 0, but a luigid may be anybody's, and does not say.
COOLDOWN_S = 10.0


def wait_for_cooldown(directory: RunDirectory) -> None:
    """Sleep until no record of this study is younger than the cooldown, if a scheduler of its own process is asked."""
    if CmdlineParser.get_instance() is None or core().local_scheduler:
        return
    configured = luigi.configuration.get_config().getfloat("scheduler", "stable_done_cooldown_secs", COOLDOWN_S)
    wait_s = newest_record(directory) + max(configured, COOLDOWN_S) + 0.5 - time.time()
    if wait_s > 0:
        time.sleep(min(wait_s, max(configured, COOLDOWN_S)))


def newest_record(directory: RunDirectory) -> float:
    """Seconds since the epoch of the youngest record below this study's name; 0 without one."""
    records = directory.path.parents[1].glob("*/*/report.json")
    return max((path.stat().st_mtime for path in (*records, *directory.path.glob("*/*.json"))), default=0.0)
