"""luigi's command line, checked before luigi parses it: it would print its whole usage for one wrong letter."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import luigi
from luigi.task_register import Register

from bench.errors import StudyError
from bench.study.settings import nearest
from tasks.luigi_runtime import refuse

SHOWN = ("local_scheduler", "scheduler_host", "scheduler_port", "log_level")
"""Of luigi's own options those that --help lists; the others are in luigi's documentation, or --help-all."""


def check(words: Sequence[str] = tuple(sys.argv)) -> None:
    """Refuse an option that luigi does not know, and print a task's --help with each option once: both end the program.
    Any other error of luigi's parser ends it in one line too.

    words: of a call of luigi; those of any other program are left alone.
    """
    program = Path(words[0] if words else "")
    if program.name != "luigi" and program.parts[-2:] != ("luigi", "__main__.py"):
        return
    task = next((Register.get_task_cls(word) for word in words if word in _families()), None)
    if task is None or "--help-all" in words:
        return
    if "--help" in words:
        _parser(task).print_help()
        raise SystemExit(0)
    options = _options(task)
    for word in words[1:]:
        name = word.partition("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in options):
            refuse(_error(task, f"{task.__name__} has no option {name}{nearest(name, options)}"))

    def in_one_line(_parser: argparse.ArgumentParser, message: str) -> NoReturn:
        # luigi has each option of a task under two names, of which a user gave the short one.
        refuse(_error(task, re.sub(r"argument (?:--[\w-]+/)*(--[\w-]+)", r"\1", message)))

    # What only luigi's own parser finds: an option without its value, a value that no flag takes, a word too many.
    argparse.ArgumentParser.error = in_one_line  # type: ignore[method-assign, assignment]  # luigi has no hook for it


def _error(task: type[luigi.Task], what: str) -> StudyError:
    return StudyError(what, advice=f"luigi --module tasks {task.__name__} --help lists its options")


def _families() -> set[str]:
    return {name for name in Register.task_names() if Register.get_task_cls(name).__module__.startswith("tasks.")}


def _options(task: type[luigi.Task]) -> tuple[str, ...]:
    """Those of the task first: they are what a mistyped word most likely means."""
    own = [_flag(name) for name, _ in task.get_params()]
    every = [
        _flag(name if is_without_section else f"{family}_{name}")
        for family, is_without_section, name, _ in Register.get_all_params()
    ]
    return (*own, *every)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parser(task: type[luigi.Task]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"luigi --module tasks {task.__name__}",
        usage="%(prog)s [options]",
        description=" ".join((task.__doc__ or "").split()),
        add_help=False,
        allow_abbrev=False,
    )
    core = {name: parameter for family, _, name, parameter in Register.get_all_params() if family == "core"}
    groups = (
        ("options of the task", dict(task.get_params())),
        ("options of luigi, of which --help-all lists all", {name: core[name] for name in SHOWN}),
    )
    for title, parameters in groups:
        group = parser.add_argument_group(title)
        for name, parameter in parameters.items():
            text = (parameter.description or "").replace("%", "%%")
            if isinstance(parameter, luigi.BoolParameter):
                group.add_argument(_flag(name), help=text, action="store_true")
            else:
                group.add_argument(_flag(name), help=text, metavar="VALUE")
    return parser
