"""`numastudy advise`: where to run, from a study's results, as text, as data, or as lines for a tool."""

import json
import textwrap
from pathlib import Path

from bench.analysis.load import read_results_file
from bench.analysis.recommend import recommend
from bench.errors import StudyError
from bench.records.base import plain
from bench.report.recipes import decided
from bench.report.text.answer import answers
from bench.report.view import View

TOOLS = {
    tool.lower(): tool
    for tool in ("numactl", "systemd", "Slurm", "torchrun", "docker", "Kubernetes", "vLLM", "SGLang", "env")
}
"""Names on the command line, and those of the recipes."""


def advise(path: Path, to: str) -> str:
    """path: a run directory or its results.json; to: text, json or one of TOOLS.

    Raise StudyError if there are no results, or if they name no node that the tool's lines could have.
    """
    file = path / "results.json" if path.is_dir() else path
    results = read_results_file(file)
    if to == "json":
        return json.dumps([plain(one) for one in results.recommendations or recommend(results)], indent=1)
    view = View(results)
    if to == "text":
        return "\n".join(f"{answer.device}: {answer.sentence}" for answer in answers(view))
    found, about = decided(view)
    recipe = next((one for one in found if one.tool == TOOLS[to]), None)
    if recipe is None:
        what = "one NUMA node: no choice of node" if len(results.topology.nodes) == 1 else f"no lines for {to}"
        raise StudyError(what, str(file), "numastudy advise --format text prints what is known")
    notes = [note for note in (about, recipe.note) if note]
    # Lines that begin with a comment of their own, as the name of a file, are set apart.
    gap = [""] if recipe.lines.startswith("#") else []
    return "\n".join([*(_comment(note) for note in notes), *gap, recipe.lines])


def _comment(note: str) -> str:
    return textwrap.fill(note, 80, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
