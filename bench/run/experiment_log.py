"""logs/experiment.log: one line for each run, in the order they ended."""

import time
from typing import Any

from bench.study.directory import RunDirectory


def log_line(directory: RunDirectory, run: str, record: dict[str, Any]) -> None:
    rate = (record.get("result") or {}).get("throughput_samples_s")
    said = f"{rate:,.0f} samples/s" if rate and record["status"] == "ok" else record["reason"]
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {run} {record['status']} {record['wall_s']:.1f} s {said}\n"
    with directory.experiment_log.open("a", encoding="utf-8") as log:
        log.write(line)
