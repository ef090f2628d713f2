"""Calls of luigi whose runs are stubs (tests.tasks.instant)."""

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.tasks.study_calls import Calls

CHECKOUT = Path(__file__).parents[2]


@dataclass
class InstantCalls(Calls):
    """Real calls of luigi; the runs are stubs that leave their records at once (tests.tasks.instant)."""

    stub: dict[str, str] = field(default_factory=dict)

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "tests.tasks.instant", *super().command(*options, "--log-level", "INFO")[3:]]

    def environment(self) -> dict[str, str]:
        # The study has more runs than that: its tasks cover several.
        lock = {"NUMASTUDY_LOCK_DIR": str(self.folder)}
        few = {"INSTANT_TASK_PER_RUN": "3", "INSTANT_TASKS": "3"}
        return os.environ | lock | few | self.stub | {"PYTHONPATH": str(CHECKOUT)}

    def ran(self, done: subprocess.CompletedProcess[str]) -> Counter[str]:
        """Tasks that were executed, by kind."""
        return Counter(re.findall(r"\] Worker .* (?:done|failed) +(\w+)\(", done.stderr))
