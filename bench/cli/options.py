"""Options of several commands, and those by which a study is named and changed."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from bench.errors import StudyError
from bench.study.settings import OVERRIDES, parse_option

if TYPE_CHECKING:
    from bench.study.load import StudyDefinition

_AGO = re.compile(r"(\d+)\s*(d|days?|w|weeks?)")
ROOT = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    help="a folder with the sys and proc of a recorded host",
)
JSON = click.option("--json", "as_json", is_flag=True, help="for programs")


def day(_context: click.Context, _option: click.Parameter, value: str | None) -> date | None:
    """A date, or a day in words; days are those of UTC, as the times of records."""
    if value is None:
        return None
    words = value.strip().lower().removesuffix(" ago")
    ago = _AGO.fullmatch({"today": "0 days", "yesterday": "1 day"}.get(words, words))
    try:
        if ago:
            return datetime.now(UTC).date() - timedelta(days=int(ago[1]) * (7 if ago[2].startswith("w") else 1))
        return date.fromisoformat(words)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no day: write 2026-11-28, today, yesterday, '7 days' or '2 weeks'"
        ) from None


OUTPUT_DIR = click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path("outputs"),
    show_default=True,
    help="where run directories are created",
)


def complete_study(_context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem]:
    """For a shell: the studies that begin so, and files where none does."""
    from bench.study.load import TASKS, shipped_names

    names = [CompletionItem(name) for name in (*TASKS, *shipped_names()) if name.startswith(begun)]
    return names or [CompletionItem(begun, type="file")]


class StudyCommand(click.Command):
    """Lists its own options before the many that change a study."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        of_study: list[tuple[str, str]] = []
        for one in self.get_params(ctx):
            if isinstance(one, click.Option) and (record := one.get_help_record(ctx)):
                (of_study if one.name in OVERRIDES else own).append(record)
        for title, records in (
            ("Options", own),
            ("Keys of the study, each with a value in place of its own", of_study),
        ):
            with formatter.section(title):
                formatter.write_dl(records)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config-file, and an option for each key of a study."""
    for key, meaning in reversed(OVERRIDES.items()):
        option = click.option(f"--{key.replace('_', '-')}", key, default=None, metavar="VALUE", help=meaning)
        command = option(command)
    file = click.option("--config-file", type=click.Path(path_type=Path), help="the file of the study named Study")
    return file(command)


def load_given(study: str, config_file: Path | None, given: Mapping[str, str | None]) -> "StudyDefinition":
    """Raise StudyError."""
    from bench.study.load import load_study

    if study != "Study" and config_file is not None:
        raise StudyError(f"{study} has a file of its own", "--config-file", f"name Study, or only {config_file}")
    file = config_file if study == "Study" else study
    if file is None:
        raise StudyError("Study needs a file", "Study", "add --config-file FILE, or name a study that ships")
    return load_study(file, parsed(given))


def parsed(given: Mapping[str, str | None]) -> dict[str, Any]:
    """The keys that were given, with their values."""
    return {key: parse_option(key, text) for key, text in given.items() if text is not None}
