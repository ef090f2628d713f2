"""The command numastudy: plans, starts and reports studies; looks at hosts, processes and traces."""

import errno
import signal
import sys
from typing import Any, NoReturn

import click

from bench.cli import host, results, run, study, traces
from bench.errors import StudyError
from bench.terminal import prepare_streams, visible


class _Commands(click.Group):
    """Ends with the text and the exit code of a StudyError; lists its commands in the order of their use."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        prepare_streams()
        try:
            return super().main(*args, **kwargs)
        except StudyError as error:
            _end(error)
        except OSError as error:
            # A path or an address that the user named; errors in a study's own files are reported where they are read.
            # Of a missing folder only os.getcwd() gives no name.
            where = str(error.filename or ("the current folder" if error.errno == errno.ENOENT else ""))
            _end(StudyError(error.strerror or str(error), where, "look at the path, its permissions, the space left"))
        except MemoryError:
            _end(StudyError("out of memory", advice="free some, or raise the limit of this process, as by ulimit -v"))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # The prompt of a shell is not to follow the ^C of its terminal.
            click.echo(err=True)
            ctx.exit(128 + signal.SIGINT)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(one.name).ljust(8), one.get_short_help_str(64)) for one in commands])


def _end(error: StudyError) -> NoReturn:
    click.echo(visible(f"error: {error}"), err=True)
    sys.exit(error.exit_code)


_SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Measure": (host.doctor, study.list_studies, study.plan, run.run, study.status, study.submit, host.ui),
    "Read results": (results.report, results.advise, results.compare, results.history),
    "Pass results on": (results.bundle, results.convert, results.schema),
    "A GPU, a process, a trace": (host.probe, host.where, traces.whatif, traces.analyze, traces.redact),
}
_COMMANDS = [command for commands in _SECTIONS.values() for command in commands]


@click.group(cls=_Commands, commands=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="numastudy")
def main() -> None:
    """Measure what the wrong NUMA node costs a GPU inference pipeline.

    \b
    numastudy doctor               is this host fit for it?
    numastudy run NearestNode      which node is near each GPU, in ten minutes
    numastudy run -- COMMAND       what does the wrong node cost my program?
    """
