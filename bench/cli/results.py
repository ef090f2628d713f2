"""Commands that read what studies have measured: reports, recommendations, comparisons, the history."""

import json
import sys
from datetime import date
from pathlib import Path

import click

from bench.cli.options import OUTPUT_DIR, day
from bench.errors import StudyError
from bench.terminal import show, show_sentences

FORMATS = ("bencher", "openmetrics", "pull-request", "perfetto")
ADVISED = ("numactl", "systemd", "slurm", "torchrun", "docker", "kubernetes", "vllm", "sglang", "env")


@click.command(short_help="Make the report of a run directory again. Measures nothing.")
@click.argument("run_dir", type=click.Path(path_type=Path))
def report(run_dir: Path) -> None:
    """Regenerate the report of RUN_DIR from its stored records. Measures nothing."""
    from bench.report.build import make_report
    from bench.report.tables import cells_table
    from bench.study.directory import check_run_directory

    check_run_directory(run_dir)
    show(cells_table(make_report(run_dir, "report")))
    show(f"report: {run_dir / 'report.html'}")


@click.command(short_help="Print where to run, as text or as lines for systemd, Slurm, ...")
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--format", "to", type=click.Choice(["text", "json", *ADVISED]), default="text", show_default=True, help="for what"
)
def advise(results: Path, to: str) -> None:
    """Print on which node to run for each GPU, from RESULTS, a run directory or its results.json.

    --format: the sentences, data, or lines to paste for a tool.
    """
    from bench.report.advise import advise as advise_on

    if to == "text":
        show_sentences(advise_on(results, to))
    else:
        show(advise_on(results, to))


@click.command(short_help="Print results for Bencher, OpenMetrics, Perfetto, a pull request.")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(FORMATS), required=True, help="which format")
@click.option("--cell", default="", metavar="NAME", help="perfetto: whose trace, by default the first that has one")
def convert(results: Path, to: str, cell: str) -> None:
    """Print RESULTS, a run directory or its results.json, in the format of another tool.

    bencher: Bencher's metric format. openmetrics: for the textfile collector of a node exporter. pull-request: a short
    comment in Markdown. perfetto: the median and the slowest batch of a trace, for ui.perfetto.dev; of a run directory.
    """
    from bench.report.convert import convert as convert_to

    show(convert_to(results, to, cell))


@click.command(short_help="Write a study as one ZIP file, without names, paths, secrets.")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="the file to write, .zip")
@click.option("--traces/--no-traces", default=True, show_default=True, help="with the clean copies of traces")
def bundle(run_dir: Path, output: Path, traces: bool) -> None:
    """Write the study of RUN_DIR as one ZIP file to pass on: report, results, clean traces, facts of the host.

    Hosts, users, GPU identifiers, paths, addresses, arguments, logs and the environment are left out or replaced; its
    README.txt says what. The same study gives the same bytes. A file that exists is never overwritten.
    """
    from bench.report.bundle import bundle as write_bundle

    show(write_bundle(run_dir, output, traces).text)


@click.command(short_help="Compare each cell of a study with the same cell of another.")
@click.argument("base")
@click.argument("new")
@click.option("--json", "output", flag_value="json", help="for programs")
@click.option("--csv", "output", flag_value="csv", help="one line a cell")
@click.option(
    "--margin",
    type=click.FloatRange(0.0001, 0.5),
    default=0.02,
    show_default=True,
    help="a difference below this is the same",
)
@click.option(
    "--max-repeats",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="report the number of repeats that would decide, up to this one",
)
@click.option("--base", "more_base", multiple=True, metavar="STUDY", help="BASE again, at another time; repeatable")
@click.option("--new", "more_new", multiple=True, metavar="STUDY", help="NEW again, at another time; repeatable")
@click.option("--force", is_flag=True, help="compare different machines too")
def compare(
    base: str,
    new: str,
    output: str | None,
    margin: float,
    max_repeats: int,
    more_base: tuple[str, ...],
    more_new: tuple[str, ...],
    force: bool,
) -> None:
    """Compare each cell of NEW with the same cell of BASE. Exit code 3 if something is slower, from six runs a side on.

    BASE and NEW are run directories, or their results.json. A host differs from one time to another: with two or three
    studies of each side, measured by turns, the intervals are of studies and contain that.
    """
    from bench.compare import compare_command
    from bench.records.results import Rules

    rules = Rules(margin=margin, max_repeats=max_repeats)
    text, code = compare_command((base, *more_base), (new, *more_new), output or "text", rules, force)
    show(text)
    sys.exit(code)


@click.command(short_help="List the finished studies of an output directory.")
@OUTPUT_DIR
@click.option("--study", default="", help="studies of this name only")
@click.option("--host", default="", help="of this host only")
@click.option(
    "--since",
    callback=day,
    metavar="DAY",
    help="measured, or meant for a night, on this day or later: 2026-11-28, today, yesterday, '7 days'",
)
@click.option("--json", "as_json", is_flag=True, help="for programs, with every cell")
@click.option("--page", is_flag=True, help="regenerate index.html instead")
@click.option("--add", multiple=True, type=click.Path(path_type=Path), help="a run directory to add; more than once")
def history(
    output_dir: Path, study: str, host: str, since: date | None, as_json: bool, page: bool, add: tuple[Path, ...]
) -> None:
    """List the finished studies of an output directory, newest first, from its history.db."""
    from bench.history.query import history_command
    from bench.study.directory import check_run_directory

    for run_dir in add:
        # Only results are added; numastudy report creates them, and only from a run directory.
        if not (run_dir / "results.json").exists():
            check_run_directory(run_dir)
    show(history_command(output_dir, study, host, since.isoformat() if since else "", as_json, add, page))


@click.command(short_help="Print the JSON Schema of a stored file.")
@click.argument("file", default="")
def schema(file: str) -> None:
    """Print the JSON Schema of FILE, as results.json or runs/*.json, or of all stored files.

    docs/files.md lists them.
    """
    from bench.records.schema import STORED
    from bench.records.schema import schema as schema_of
    from bench.study.settings import nearest

    if file and file not in STORED:
        what = f"there is no schema of that name{nearest(file, tuple(STORED))}"
        raise StudyError(what, file, "name one of " + ", ".join(STORED))
    show(json.dumps(schema_of(file), indent=1))
