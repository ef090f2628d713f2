"""The command numastudy: plans, starts and reports studies; looks at hosts, processes and traces."""

import sys
from typing import Any, NoReturn

import click

from bench.cli import host, results, run, study, traces
from bench.errors import StudyError
from bench.terminal import prepare_streams, visible


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


_COMMANDS: tuple[click.Command, ...] = (
    *(run.run, study.list_studies, study.plan, study.submit, study.status),
    *(results.report, results.advise, results.convert, results.bundle),
    *(results.compare, results.history, results.schema),
    *(traces.analyze, traces.redact, traces.whatif),
    *(host.doctor, host.probe, host.where, host.ui),
)


@click.group(cls=_Commands, commands=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="numastudy")
def main() -> None:
    """Measure what the wrong NUMA node costs a GPU inference pipeline.

    numastudy run STUDY measures a study: it calls luigi, as luigi --module tasks STUDY.
    """
