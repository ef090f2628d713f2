"""Real nights: luigi, the workload, the history."""

import json
import subprocess
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml
from msgspec.structs import replace

from bench.history.database import add_study
from bench.records.base import read
from bench.records.results import CellRun, Results
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
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=800
        )

    def verdict(self, day: str) -> dict[str, Any]:
        return json.loads((self.folder / "outputs" / "nightly" / day / "verdict.json").read_bytes())

    def times_measured(self) -> list[int]:
        """How often a run was executed, in each run directory."""
        logs = sorted(self.folder.glob("outputs/*/*/*/logs/experiment.log"))
        return [len(log.read_text().splitlines()) for log in logs]

    def pretend_nights(self, before: str, count: int, factor: float) -> None:
        """Add made-up nights in which everything was `factor` times as fast as in the last real one."""
        (path,) = self.folder.glob("outputs/tiny/*/*/results.json")
        results = read(path, Results)
        for number in range(1, count + 1):
            day = (date.fromisoformat(before) - timedelta(days=number)).isoformat()
            scale = factor * (1 + 0.002 * (-1) ** number)
            cells = tuple(replace(cell, runs=tuple(_scaled(run, scale) for run in cell.runs)) for cell in results.cells)
            made = replace(
                results,
                study=replace(results.study, night=day),
                run_directory=str(self.folder / "outputs" / "made up" / day),
                cells=cells,
            )
            add_study(made, self.folder / "outputs" / "history.db")


def _scaled(run: CellRun, scale: float) -> CellRun:
    rate = run.throughput_samples_s
    return replace(run, throughput_samples_s=rate and rate * scale)


def made(folder: Path) -> Nights:
    return Nights(folder, ["--local-scheduler"], dict(ONE_CELL))
