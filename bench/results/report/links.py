"""Relative links from the page to the files beside it: only to those that exist."""

from functools import cached_property
from pathlib import Path
from urllib.parse import quote

_FOLDERS = ("runs", "logs", "nsys_reports", "latency", "links", ".")
_FORMATS = {"CSV": "results.csv", "JSON": "results.json", "SQLite": "results.db", "Markdown": "report.md"}


class Files:
    """What lies in a run directory, listed once."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    @cached_property
    def _present(self) -> set[str]:
        return {
            f"{folder}/{file.name}" if folder != "." else file.name
            for folder in _FOLDERS
            if (self._run_dir / folder).is_dir()
            for file in (self._run_dir / folder).iterdir()
        }

    def link(self, path: str) -> str | None:
        """The href of a file, None if it is not there."""
        return quote(path) if path in self._present else None

    def of_results(self) -> list[tuple[str, str]]:
        """(word, href) of the same results in other formats."""
        return self._kept(_FORMATS)

    def of_run(self, run: str) -> list[tuple[str, str]]:
        """(word, href) of a run's record and logs."""
        return self._kept(
            {"record": f"runs/{run}.json", "stdout": f"logs/{run}.stdout", "stderr": f"logs/{run}.stderr"}
        )

    def of_trace(self, cell: str) -> list[tuple[str, str]]:
        """(word, href) of a cell's trace, its export and its metrics."""
        traces = {"nsys-rep": f"nsys_reports/{cell}.nsys-rep", "torch trace": f"nsys_reports/{cell}.torch.json.gz"}
        return self._kept(traces | {"sqlite": f"nsys_reports/{cell}.sqlite", "metrics": f"latency/{cell}.json"})

    def _kept(self, named: dict[str, str]) -> list[tuple[str, str]]:
        return [(word, href) for word, path in named.items() if (href := self.link(path))]
