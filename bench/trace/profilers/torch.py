"""torch.profiler: the measured process itself writes a Chrome trace."""

from collections.abc import Sequence
from pathlib import Path

from bench.trace.errors import ProfilerError


class Torch:
    name = "torch"

    def trace_path(self, report: Path) -> Path:
        return report.parent / f"{report.name}.trace.json.gz"

    def command(self, argv: Sequence[str], report: Path, device: str) -> list[str]:
        self.discard(report)
        return [*argv, "--trace", str(self.trace_path(report))]

    def settle(self, report: Path) -> None:
        """It runs inside the measured process and ends with it."""

    def collect(self, report: Path, exit_code: int, log: str) -> Path | None:
        trace = self.trace_path(report)
        if exit_code != 0:
            return None
        if not trace.exists() or not trace.stat().st_size:
            raise ProfilerError(
                "the run went well and torch.profiler left no trace", str(trace), "see the run's log; measure it again"
            )
        return trace

    def export(self, report: Path, sqlite: Path) -> None:
        from bench.trace.torch_trace import convert

        convert(self.trace_path(report), sqlite)

    def discard(self, report: Path) -> None:
        self.trace_path(report).unlink(missing_ok=True)
