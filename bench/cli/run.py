"""`numastudy run`: a study, or a command of the user's own, measured by luigi."""

import os
import shlex
import sys
from pathlib import Path

import click

from bench.cli.options import OUTPUT_DIR, StudyCommand, complete_study, load_given, parsed, study_options
from bench.errors import StudyError
from bench.terminal import show, show_sentences


class _BeforeCommand(StudyCommand):
    """What follows `--` is a command, and no option of this one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            ctx.meta["command"] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND [ARGUMENT]...]"]


@click.command(cls=_BeforeCommand, short_help="Measure a study, or a command of yours, on each node.")
@click.argument("study", nargs=-1, metavar="[STUDY]", shell_complete=complete_study)
@click.option("--name", default="", help="of the study of a command; by default that of its program")
@click.option("--gpu", "gpu_ids", default=None, metavar="N,N|all", help="the same as --gpu-ids")
@click.option("--nodes", "numa_nodes", default=None, metavar="N,N|all", help="the same as --numa-nodes")
@click.option(
    "--read",
    default="",
    help="where the number is: json (a file), vllm and others (their output), wall (the time of the command)",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME=REGEX,UNIT,higher|lower",
    help="the number is in the output; more than once",
)
@click.option(
    "--server", default="", metavar="COMMAND", help="started before the command; only it is bound and judged then"
)
@click.option(
    "--ready",
    default="",
    metavar="URL|REGEX",
    help="the server is ready when this URL answers, or it writes such a line",
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="a variable of the command, stored with the study")
@click.option("--pass-env", multiple=True, metavar="NAME", help="a variable whose value is passed and never stored")
@OUTPUT_DIR
@click.option("--fresh", is_flag=True, help="measure everything again, in a new run directory")
@click.option("--strict", is_flag=True, help="a cell that cannot run on this host is a failure")
@click.option("--long", is_flag=True, help="start even if this takes more than two hours on a host without a GPU")
@click.option("--dry-run", is_flag=True, help="print what would be measured instead")
@study_options
@click.pass_context
def run(
    context: click.Context,
    /,
    study: tuple[str, ...],
    config_file: Path | None,
    name: str,
    read: str,
    metrics: tuple[str, ...],
    server: str,
    ready: str,
    env: tuple[str, ...],
    pass_env: tuple[str, ...],
    output_dir: Path,
    fresh: bool,
    strict: bool,
    long: bool,
    dry_run: bool,
    **given: str | None,
) -> None:
    """Measure STUDY, or a command of yours (after `--`) on each node.

    \b
    numastudy run QuickTest
    numastudy run NumaStudy --numa-nodes all --models vit0x0x0,vit32x6x512
    numastudy run --read wall -- python3 mine.py
    numastudy run --metric 'tok_s=throughput: ([\\d.]+),tok/s,higher' -- ./bench
    numastudy run --server 'python3 serve.py --port {port}'
        --ready 'http://127.0.0.1:{port}/health' --read vllm -- vllm bench serve ...

    The number of a command is in the file that NUMASTUDY_RESULT names, in its output (--read, --metric), or its time
    (--read wall): docs/own_workloads.md. luigi measures, by the scheduler of `make ui` where that runs.
    """
    from bench.command.start import Asked, check_programs, luigi_argv, study_of, write_study
    from bench.study.load import read_study
    from bench.study.plan import plan as make_plan
    from bench.study.plan import render

    argv = context.meta.get("command", [])
    if len(study) > 1:
        advice = f"name one; a command follows --: numastudy run -- {shlex.join(study)}"
        raise StudyError("more than one study", " ".join(study), advice)
    named = study[0] if study else ""
    overrides = {key: text for key, text in given.items() if text is not None}
    asked = Asked(server, ready, read, metrics, env, pass_env).block()
    if argv:
        if named or config_file:
            raise StudyError("a study and a command exclude each other", named, "keep one of them")
        content = study_of({"run": argv, "cwd": str(Path.cwd()), **asked}, name)
        # Its name becomes a folder: it is checked before anything is written.
        definition = read_study(content, "numastudy run", parsed(given))
        if not dry_run:
            check_programs(definition.models)
        named = str(write_study(content, output_dir))
        show(f"study: {named}")
    elif asked or name:
        raise StudyError("these options are of a command", "numastudy run", "add -- and the command")
    elif not (named or config_file):
        raise StudyError("nothing to measure", "numastudy run", "name a study (numastudy list), or a command after --")
    else:
        named = named or "Study"
        definition = load_given(named, config_file, given)
    if dry_run:
        show_sentences(render(make_plan(definition, output_dir, fresh)))
        return
    flags = [*["--fresh"] * fresh, *["--strict"] * strict, *["--long"] * long]
    line = luigi_argv(str(config_file) if named == "Study" else named, output_dir, overrides, flags)
    show(shlex.join(line))
    sys.stdout.flush()
    os.execv(line[0], line)
