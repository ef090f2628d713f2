"""Options of several commands, and those by which a study is named and changed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.errors import StudyError
from bench.study.settings import OVERRIDES, parse_option

if TYPE_CHECKING:
    from bench.study.load import StudyDefinition

ROOT = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    help="a folder with the sys and proc of a recorded host",
)
JSON = click.option("--json", "as_json", is_flag=True, help="for programs")
OUTPUT_DIR = click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    default=Path("outputs"),
    show_default=True,
    help="where run directories are created",
)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config-file, and an option for each key of a study."""
    for key, meaning in reversed(OVERRIDES.items()):
        option = click.option(f"--{key.replace('_', '-')}", key, default=None, metavar="JSON", help=meaning)
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
