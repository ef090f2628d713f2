"""Make, or make again, all that a run directory's stored data gives. Measures nothing."""

from pathlib import Path
from typing import Any

from bench.files import write_json, write_text
from bench.results.database import write_database
from bench.results.load import load
from bench.results.report.markdown import markdown
from bench.results.report.page import render
from bench.results.results import build_results
from bench.results.summary import experiment_summary
from bench.results.tables import csv_text


def make_report(run_dir: Path | str, invocation: str) -> dict[str, Any]:
    """Write results.json, experiment_summary.json, results.csv, results.db, report.md and report.html.

    Each file appears whole or not at all; results.json comes last but for the page, which links to all.
    Returns the results. Raises StudyError if run_dir is no run directory.
    """
    stored = load(run_dir)
    results = build_results(stored, invocation)
    write_json(stored.path / "experiment_summary.json", experiment_summary(results))
    write_text(stored.path / "results.csv", csv_text(results["cells"]))
    write_database(stored.path / "results.db", results)
    write_text(stored.path / "report.md", markdown(results))
    write_json(stored.path / "results.json", results)
    write_text(stored.path / "report.html", render(stored, results))
    return results
