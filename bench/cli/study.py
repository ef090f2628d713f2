"""Commands about studies before and while they are measured; `numastudy run` is bench/cli/run.py."""

import json
from pathlib import Path

import click

from bench.cli.options import JSON, OUTPUT_DIR, ROOT, StudyCommand, complete_study, load_given, study_options
from bench.errors import StudyError
from bench.terminal import show, show_sentences


@click.command(name="list", short_help="List the studies that ship, and their time on this host.")
@OUTPUT_DIR
def list_studies(output_dir: Path) -> None:
    """List the studies that ship, with their size and their time on this host."""
    from bench.study.listing import listing

    show(listing(output_dir))


@click.command(cls=StudyCommand, short_help="Print what a study would measure here, and how long that takes.")
@click.argument("study", shell_complete=complete_study)
@OUTPUT_DIR
@click.option("--fresh", is_flag=True, help="as if nothing had been measured yet")
@click.option("--cells", "cells_too", is_flag=True, help="also print a line for each cell")
@ROOT
@JSON
@study_options
def plan(
    study: str,
    config_file: Path | None,
    output_dir: Path,
    fresh: bool,
    cells_too: bool,
    root: Path,
    as_json: bool,
    **given: str | None,
) -> None:
    """Print what STUDY would measure here, what is done and how long the rest takes. Runs nothing.

    STUDY is a study that ships (numastudy list), or a study file. docs/axes.md lists every key with its default.
    """
    from bench.study.plan import plan as make_plan
    from bench.study.plan import render

    planned = make_plan(load_given(study, config_file, given), output_dir, fresh, root=root)
    if as_json or cells_too:
        show(json.dumps(planned.as_json(), indent=1) if as_json else render(planned, cells_too))
    else:
        show_sentences(render(planned))


@click.command(cls=StudyCommand, short_help="Measure a study on many hosts, one Slurm job each.")
@click.argument("study", shell_complete=complete_study)
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

    STUDY and its keys are as for plan. The same command again submits only what is missing.
    """
    from bench.cluster import submit as cluster
    from bench.cluster.slurm import choose_hosts

    definition = load_given(study, config_file, given)
    request = cluster.Request(scheduler, options, template)
    hosts = choose_hosts(nodes, nodelist, count, constraint)
    if dry_run:
        show(cluster.dry_run(definition, hosts, request, output_dir).rstrip())
        return
    directory, outcomes = cluster.submit(definition, hosts, request, output_dir, fresh)
    width = max(map(len, outcomes))
    lines = [f"{host:{width}}  {outcome}" for host, outcome in outcomes.items()]
    show("\n".join([*lines, "", f"numastudy status {directory.path}"]))


@click.command(short_help="Print how far a study is, on each of its hosts.")
@click.argument("run_dir", type=click.Path(path_type=Path))
@JSON
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
