"""Commands that read a trace."""

import json
import sys
from pathlib import Path

import click

from bench.cli.options import JSON
from bench.errors import StudyError
from bench.terminal import show


@click.command(short_help="Print the metrics of a trace, or of those in a folder.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--range", "range_name", metavar="NAME", help="of the ranges of another program, each taken as a batch")
@JSON
def analyze(path: Path, range_name: str | None, as_json: bool) -> None:
    """Print the metrics of a trace (.sqlite, .nsys-rep, .json of torch.profiler) or of every trace in a folder."""
    from bench.report.analyze import analyze_command

    sys.exit(analyze_command(path, as_json, range_name))


@click.command(short_help="Copy a trace without names, paths and environment.")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="where the clean copy goes")
@click.option("--force", is_flag=True, help="replace a file that exists")
def redact(trace: Path, output: Path, force: bool) -> None:
    """Copy TRACE (.sqlite, .sqlite.gz) for publication: the input of the metrics, without names, paths, environment.

    Reports of nsys (.nsys-rep) cannot be cleaned: publish the copy instead.
    """
    from bench.trace.redact import redact as copy_clean

    if output.exists() and not force:
        raise StudyError("exists already", str(output), "name another file, or add --force to replace it")
    if output.exists() and output.samefile(trace):
        raise StudyError("the copy would replace its source", str(output), "name another file")
    copy_clean(trace, output)
    show(f"clean copy: {output}")


@click.command(short_help="Print how much slower copies could slow a traced program.")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--nvtx", metavar="NAME", help="the part from the first to the last range of this name")
@click.option("--from", "begin_ms", type=click.FloatRange(0), metavar="MS", help="since the first event")
@click.option("--to", "end_ms", type=click.FloatRange(0), metavar="MS", help="since the first event")
@click.option(
    "--untraced",
    "untraced_ms",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="how long the same part takes without the profiler",
)
@JSON
def whatif(
    trace: Path,
    nvtx: str | None,
    begin_ms: float | None,
    end_ms: float | None,
    untraced_ms: float | None,
    as_json: bool,
) -> None:
    """Print how much slower host copies could slow the program of TRACE, of nsys or of torch.profiler. Runs nothing.

    Exit code 0: at most 2 % if copies took twice as long; 3: more, measure it; 4: this trace cannot say.
    docs/whatif.md has the rules.
    """
    from bench.records.base import plain
    from bench.whatif.command import Request
    from bench.whatif.command import whatif as answer
    from bench.whatif.text import whatif_text

    if nvtx is not None and (begin_ms, end_ms) != (None, None):
        raise StudyError("a range and times exclude each other", "--nvtx", "leave out --nvtx, or --from and --to")
    found, code = answer(trace, Request(nvtx, begin_ms, end_ms, untraced_ms))
    show(json.dumps(plain(found), indent=1) if as_json else whatif_text(found))
    sys.exit(code)
