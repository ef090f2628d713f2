"""The command numastudy: plans, starts and reports studies; looks at hosts, processes and traces."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from bench.cli_run import OUTPUT_DIR, load_given, run, study_options
from bench.errors import StudyError
from bench.terminal import prepare_streams, show, visible

_ROOT = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    help="a folder with the sys and proc of a recorded host",
)
_PORT = click.IntRange(1, 65535)
_JSON = click.option("--json", "as_json", is_flag=True, help="for programs")


ADVISED = ("numactl", "systemd", "slurm", "torchrun", "docker", "kubernetes", "vllm", "sglang", "env")


class _Commands(click.Group):
    """Ends with the text and the exit code of a StudyError."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        prepare_streams()
        try:
            return super().main(*args, **kwargs)
        except StudyError as error:
            _end(error)
        except OSError as error:
            # A path or an address that the user named; errors in a study's own files are reported where they are read.
            where = str(error.filename or "")
            _end(StudyError(error.strerror or str(error), where, "look at the path, its permissions, the space left"))


def _end(error: StudyError) -> NoReturn:
    click.echo(visible(f"error: {error}"), err=True)
    sys.exit(error.exit_code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="numastudy")
def main() -> None:
    """Measure what the wrong NUMA node costs a GPU inference pipeline.

    numastudy run STUDY measures a study: it calls luigi, as luigi --module tasks STUDY.
    """


main.add_command(run)


@main.command(name="list")
@OUTPUT_DIR
def list_studies(output_dir: Path) -> None:
    """List the studies that ship, with their size and their time on this host."""
    from bench.study.listing import listing

    show(listing(output_dir))


@main.command()
@click.argument("study")
@OUTPUT_DIR
@click.option("--fresh", is_flag=True, help="as if nothing had been measured yet")
@_ROOT
@_JSON
@study_options
def plan(
    study: str, config_file: Path | None, output_dir: Path, fresh: bool, root: Path, as_json: bool, **given: str | None
) -> None:
    """Print what STUDY would measure here, what is done and how long the rest takes. Runs nothing.

    STUDY is NumaStudy, QuickTest, ScalingStudy, SelfCheck, the name of another study that ships, a study file, or
    Study with --config-file. Options in JSON (or plain words) override its values, as the task's parameters do;
    docs/axes.md lists every key with its default.
    """
    from bench.study.plan import plan as make_plan
    from bench.study.plan import render

    planned = make_plan(load_given(study, config_file, given), output_dir, fresh, root=root)
    show(json.dumps(planned.as_json(), indent=1) if as_json else render(planned))


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--range", "range_name", metavar="NAME", help="of the ranges of another program, each taken as a batch")
@_JSON
def analyze(path: Path, range_name: str | None, as_json: bool) -> None:
    """Print the metrics of a trace (.sqlite, .nsys-rep, .json of torch.profiler) or of every trace in a folder."""
    from bench.report.analyze import analyze_command

    sys.exit(analyze_command(path, as_json, range_name))


@main.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="where the clean copy goes")
def redact(trace: Path, output: Path) -> None:
    """Copy TRACE (.sqlite, .sqlite.gz) for publication: the input of the metrics, without names, paths, environment.

    Reports of nsys (.nsys-rep) cannot be cleaned: publish the copy instead.
    """
    from bench.trace.redact import redact as copy_clean

    copy_clean(trace, output)
    show(f"clean copy: {output}")


@main.command()
@_JSON
@click.option("--strict", is_flag=True, help="a warning is an error")
@_ROOT
@OUTPUT_DIR
def doctor(as_json: bool, strict: bool, root: Path, output_dir: Path) -> None:
    """Check what can make a study of this host fail or mislead. Exit code 1 if there is an error."""
    from bench.host.doctor import doctor_command

    text, code = doctor_command(as_json, strict, output_dir if output_dir.is_dir() else Path(), root)
    show(text)
    sys.exit(code)


@main.command()
@_JSON
@click.option(
    "--device",
    type=click.Choice(["cuda", "cpu"]),
    default="cuda",
    show_default=True,
    help="cpu: between nodes, for a host without a GPU",
)
@click.option("--output", type=click.Path(path_type=Path), help="also write the JSON to this file")
def probe(as_json: bool, device: str, output: Path | None) -> None:
    """Measure which node is near each GPU: 64-byte copies from each node, or from each CPU of a host with one node."""
    from bench.host.probe import probe as probe_gpus
    from bench.host.probe import probe_cpu
    from bench.host.topology import read_topology
    from bench.records.base import plain
    from bench.report.text.host import probe_text
    from bench.storage import write_json

    probed = probe_gpus(read_topology()) if device == "cuda" else probe_cpu(read_topology())
    if output is not None:
        write_json(output, plain(probed))
    show(json.dumps(plain(probed), indent=1) if as_json else probe_text(probed))


@main.command()
@click.argument("pids", nargs=-1, type=click.IntRange(1), metavar="[PID]...")
@click.option("--gpu", "gpus", multiple=True, metavar="N|UUID", help="the processes of this GPU; more than once")
@click.option("--all", "every", is_flag=True, help="the processes of every GPU; the default without a PID")
@click.option("--node", type=click.IntRange(0), help="compare with this NUMA node, not with the one nearest to the GPU")
@click.option(
    "--watch", default=0.0, type=click.FloatRange(0, 3600), metavar="S", help="observe the threads for S seconds"
)
@click.option("--quick", is_flag=True, help="sample pages: disturbs the processes less than reading all of them")
@_JSON
def where(
    pids: tuple[int, ...],
    gpus: tuple[str, ...],
    every: bool,
    node: int | None,
    watch: float,
    quick: bool,
    as_json: bool,
) -> None:
    """Show where running processes are, and whether that is near their GPU: threads, memory policies, pages by node.

    PID: with its descendants. Exit code 0: local; 3: remote or mixed; 4: something could not be seen; 5: no such
    process. docs/own_workloads.md has the rules.
    """
    from bench.records.base import plain
    from bench.where.command import Request
    from bench.where.command import where as look
    from bench.where.text import where_text

    if every and (pids or gpus):
        raise StudyError("--all is every process of every GPU", "--all", "leave out --all, or PID and --gpu")
    answer, code = look(Request(pids, gpus, node, watch, quick))
    show(json.dumps(plain(answer), indent=1) if as_json else where_text(answer))
    sys.exit(code)


@main.command()
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
@_JSON
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


@main.command()
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


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
def report(run_dir: Path) -> None:
    """Regenerate the report of RUN_DIR from its stored records. Measures nothing."""
    from bench.report.build import make_report
    from bench.report.tables import cells_table
    from bench.study.directory import check_run_directory

    check_run_directory(run_dir)
    show(cells_table(make_report(run_dir, "report")))
    show(f"report: {run_dir / 'report.html'}")


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--format", "to", type=click.Choice(["text", "json", *ADVISED]), default="text", show_default=True, help="for what"
)
def advise(results: Path, to: str) -> None:
    """Print on which node to run for each GPU, from RESULTS, a run directory or its results.json.

    --format: the sentences, data, or lines to paste for a tool.
    """
    from bench.report.advise import advise as advise_on

    show(advise_on(results, to))


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["bencher", "openmetrics"]), required=True, help="which format")
def convert(results: Path, to: str) -> None:
    """Print RESULTS, a run directory or its results.json, in the format of another tool."""
    from bench.analysis.load import read_results_file
    from bench.report.convert import Format
    from bench.report.convert import convert as convert_to

    file = results / "results.json" if results.is_dir() else results
    show(convert_to(read_results_file(file), Format(to)))


@main.command()
@click.argument("study")
@click.option("--nodes", default="", metavar="n1,n2", help="these hosts")
@click.option("--nodelist", default="", metavar="EXPR", help="the hosts of a Slurm host list, as 'n[1-9]'")
@click.option("--count", default=0, metavar="N", type=click.IntRange(0), help="number of hosts")
@click.option("--constraint", default="", metavar="FEATURE", help="with --count: hosts that have this feature")
@click.option("--scheduler", default="", metavar="HOST:PORT", help="a central luigid; else each job schedules itself")
@click.option("--sbatch", "options", multiple=True, metavar="OPTION", help="as time=04:00:00, gres=gpu:8")
@click.option("--template", type=click.Path(path_type=Path), help="a batch script of your site, derived from ours")
@OUTPUT_DIR
@click.option("--fresh", is_flag=True, help="measure everything again, in a new run directory")
@click.option("--dry-run", is_flag=True, help="print the script instead")
@study_options
def submit(
    study: str,
    config_file: Path | None,
    nodes: str,
    nodelist: str,
    count: int,
    constraint: str,
    scheduler: str,
    options: tuple[str, ...],
    template: Path | None,
    output_dir: Path,
    fresh: bool,
    dry_run: bool,
    **given: str | None,
) -> None:
    """Measure STUDY on many hosts: one exclusive Slurm job a host, one run directory with a folder a host.

    STUDY and the options in JSON are as for plan. The same command again submits only what is missing.
    """
    from bench.cluster import submit as cluster
    from bench.cluster.slurm import choose_hosts

    definition = load_given(study, config_file, given)
    request = cluster.Request(nodes, nodelist, count, constraint, scheduler, options, template)
    hosts = choose_hosts(nodes, nodelist, count, constraint)
    if dry_run:
        show(cluster.dry_run(definition, hosts, request, output_dir).rstrip())
        return
    directory, outcomes = cluster.submit(definition, hosts, request, output_dir, fresh)
    width = max(map(len, outcomes))
    lines = [f"{host:{width}}  {outcome}" for host, outcome in outcomes.items()]
    show("\n".join([*lines, "", f"numastudy status {directory.path}"]))


@main.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@_JSON
@click.option("--report", "with_report", is_flag=True, help="make the report of all hosts now")
def status(run_dir: Path, as_json: bool, with_report: bool) -> None:
    """Print the state of each host of RUN_DIR: runs, its job, and why a host is not done."""

    from bench.cluster.directory import ClusterDirectory, is_cluster
    from bench.cluster.report import headline, write_cluster_report
    from bench.cluster.status import render
    from bench.cluster.status import status as status_of
    from bench.records.base import plain

    lines = []
    if with_report:
        if not is_cluster(run_dir):
            what = "not the folder of a study on many hosts"
            raise StudyError(what, str(run_dir), "numastudy report writes the report of one host")
        directory = ClusterDirectory(run_dir)
        lines = [headline(write_cluster_report(directory)), f"report: {directory.report}"]
    found = status_of(run_dir)
    show(json.dumps(plain(found), indent=1) if as_json else "\n".join([render(found), *lines]))


@main.command()
@OUTPUT_DIR
@click.option("--study", default="", help="studies of this name only")
@click.option("--host", default="", help="of this host only")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="measured, or meant for a night, on this date or later",
)
@click.option("--json", "as_json", is_flag=True, help="for programs, with every cell")
@click.option("--page", is_flag=True, help="regenerate index.html instead")
@click.option("--add", multiple=True, type=click.Path(path_type=Path), help="a run directory to add; more than once")
def history(
    output_dir: Path, study: str, host: str, since: datetime | None, as_json: bool, page: bool, add: tuple[Path, ...]
) -> None:
    """List the finished studies of an output directory, newest first, from its history.db."""
    from bench.history.query import history_command
    from bench.study.directory import check_run_directory

    for run_dir in add:
        # Only results are added; numastudy report creates them, and only from a run directory.
        if not (run_dir / "results.json").exists():
            check_run_directory(run_dir)
    date = since.date().isoformat() if since else ""
    show(history_command(output_dir, study, host, date, as_json, add, page))


@main.command()
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


@main.command()
@click.option("--state", type=click.Path(path_type=Path), required=True, help="folder of luigid's state and log")
@click.option(
    "--outputs", type=click.Path(path_type=Path), default=Path("outputs"), show_default=True, help="what is served"
)
@click.option("--port", type=_PORT, default=8082, show_default=True, help="of luigi's page")
@click.option("--outputs-port", type=_PORT, default=8083, show_default=True, help="of logs and reports")
def ui(state: Path, outputs: Path, port: int, outputs_port: int) -> None:
    """Serve luigi's page and the outputs on 127.0.0.1 until Ctrl-C."""
    from bench.study.load import configs_folder
    from bench.ui import serve

    sys.exit(serve(state, outputs, configs_folder().parent / "luigi.cfg", port, outputs_port))


if __name__ == "__main__":
    main()
