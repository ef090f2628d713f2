"""The tasks that a user names: `luigi --module tasks NumaStudy`. All are in studies.py and nightly.py."""

from tasks import command_line, luigi_runtime, nightly, progress, studies  # noqa: F401

# luigi imports this module before it reads its settings.
luigi_runtime.install()
progress.install()
command_line.check()
