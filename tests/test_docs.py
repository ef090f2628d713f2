"""What README.md and the pages of docs/ tell a reader to type, or to look at, is there."""

import re
import shlex
from pathlib import Path

import pytest

from bench.cli import load_given, main
from bench.study.settings import OVERRIDES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A comment ends a command, and a word in capitals stands for one of the reader's.
COMMAND = re.compile(r"^    (?:\S*/)?(luigi --module tasks|numastudy) (.+?)(?:\s+#.*)?$", re.MULTILINE)


def commands(program: str) -> list[str]:
    text = "\n".join(page.read_text().replace("\\\n", " ") for page in PAGES)
    return sorted({words for found, words in COMMAND.findall(text) if found == program})


@pytest.mark.parametrize("words", commands("luigi --module tasks"))
def test_a_study_that_is_shown_is_read(words: str) -> None:
    params = main.commands["plan"].make_context("plan", shlex.split(words)).params
    overrides = {key: value for key, value in params.items() if key in OVERRIDES}
    assert load_given(params["study"], params["config_file"], overrides).name


@pytest.mark.parametrize("words", commands("numastudy"))
def test_a_command_that_is_shown_is_one(words: str) -> None:
    name, *options = shlex.split(re.sub(r" \| .*?(?=\s--|$)|[\[\]]", "", words))
    command = main.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:", link)]
    assert not [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`|^    make ([a-z-]+)", text, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }
