"""Commands about this host: its checks, its locality, its processes, its pages."""

import json
import sys
from pathlib import Path

import click

from bench.cli.options import JSON, OUTPUT_DIR, ROOT
from bench.errors import StudyError
from bench.terminal import show

_PORT = click.IntRange(1, 65535)
_PID = click.IntRange(1)
# As it is called in an error about a word.
_PID.name = "process id"


@click.command(short_help="Check what makes studies of this host fail or mislead.")
@JSON
@click.option("--strict", is_flag=True, help="a warning is an error")
@ROOT
@OUTPUT_DIR
def doctor(as_json: bool, strict: bool, root: Path, output_dir: Path) -> None:
    """Check what can make a study of this host fail or mislead. Exit code 1 if there is an error."""
    from bench.host.doctor import doctor_command

    text, code = doctor_command(as_json, strict, output_dir if output_dir.is_dir() else Path(), root)
    show(text)
    sys.exit(code)


@click.command(short_help="Measure which node is near each GPU, by small copies.")
@JSON
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


@click.command(short_help="Print whether running processes are near their GPU.")
@click.argument("pids", nargs=-1, type=_PID, metavar="[PID]...")
@click.option("--gpu", "gpus", multiple=True, metavar="N|UUID", help="the processes of this GPU; more than once")
@click.option("--all", "every", is_flag=True, help="the processes of every GPU; the default without a PID")
@click.option("--node", type=click.IntRange(0), help="compare with this NUMA node, not with the one nearest to the GPU")
@click.option(
    "--watch", default=0.0, type=click.FloatRange(0, 3600), metavar="S", help="observe the threads for S seconds"
)
@click.option("--quick", is_flag=True, help="sample pages: disturbs the processes less than reading all of them")
@JSON
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
    process. docs/where.md has the rules.
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


@click.command(short_help="Serve luigi's page and the outputs on 127.0.0.1.")
@click.option("--state", type=click.Path(path_type=Path), required=True, help="folder of luigid's state and log")
@click.option(
    "--outputs", type=click.Path(path_type=Path), default=Path("outputs"), show_default=True, help="what is served"
)
@click.option("--port", type=_PORT, default=8082, show_default=True, help="of luigi's page")
@click.option("--outputs-port", type=_PORT, default=8083, show_default=True, help="of logs and reports")
def ui(state: Path, outputs: Path, port: int, outputs_port: int) -> None:
    """Serve luigi's page and the outputs on 127.0.0.1 until Ctrl-C."""
    from bench.study.load import configs_folder
    from bench.ui.serve import serve

    sys.exit(serve(state, outputs, configs_folder().parent / "luigi.cfg", port, outputs_port))
