"""Real nights: luigi, the workload, the history."""

import copy
import json
import subprocess
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml

from bench.history.database import add_study
from bench.storage import read_json
from tests.tasks.study_calls import BIN, TINY, Calls

CELL = "pipeline_gpu0_numa0_vit0x0x0"
ONE_CELL = TINY | {"models": ["vit0x0x0"]}


class Nights(Calls):
    """NightlySweep with nightly.yaml in `folder`."""

    def list_studies(self, *studies: Any, **more: Any) -> None:
        (self.folder / "nightly.yaml").write_text(yaml.safe_dump({"studies": list(studies), **more}))

    def night(self, day: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(BIN / "luigi"), "--module", "tasks", "NightlySweep", "--date", day,
            "--config-file", str(self.folder / "nightly.yaml"), "--output-dir", str(self.folder / "outputs"),
            *self.scheduler, *options,
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=240
        )

    def verdict(self, day: str) -> dict[str, Any]:
        return read_json(self.folder / "outputs" / "nightly" / day / "verdict.json")

    def times_measured(self) -> list[int]:
        """How often a run was executed, in each run directory."""
        logs = sorted(self.folder.glob("outputs/*/*/*/logs/experiment.log"))
        return [len(log.read_text().splitlines()) for log in logs]

    def pretend_nights(self, before: str, count: int, factor: float) -> None:
        """Add made-up nights in which everything was `factor` times as fast as in the last real one."""
        (results,) = (json.loads(path.read_text()) for path in self.folder.glob("outputs/tiny/*/*/results.json"))
        for number in range(1, count + 1):
            made = copy.deepcopy(results)
            day = (date.fromisoformat(before) - timedelta(days=number)).isoformat()
            made["study"]["night"] = day
            made["run_directory"] = str(self.folder / "outputs" / "made up" / day)
            for run in (run for cell in made["cells"] for run in cell["runs"] if run["throughput_samples_s"]):
                run["throughput_samples_s"] *= factor * (1 + 0.002 * (-1) ** number)
            add_study(made, self.folder / "outputs" / "history.db")


def made(folder: Path) -> Nights:
    return Nights(folder, ["--local-scheduler"], dict(ONE_CELL))
