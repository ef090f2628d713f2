"""README.md and the pages of docs/: their commands can be run, their links and paths exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from bench.cli import main
from bench.cli.options import load_given
from bench.records.study import Study
from bench.study.settings import OVERRIDES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
# A comment ends a command; a word in capitals is the reader's own.
COMMAND = re.compile(r"^    (?:\S*/)?(luigi --module tasks|numastudy) (.+?)(?:\s+#.*)?$", re.MULTILINE)
# Files of this repository, at the start of a code span or as plain text.
FILE = re.compile(r"\b((?:bench|tasks|tests|configs)/[\w./*-]*[\w*/])")


def commands(program: str) -> list[str]:
    text = "\n".join(page.read_text().replace("\\\n", " ") for page in PAGES)
    return sorted({words for name, words in COMMAND.findall(text) if name == program})


@pytest.mark.parametrize("words", commands("luigi --module tasks"))
def test_a_documented_study_is_valid(words: str) -> None:
    params = main.commands["plan"].make_context("plan", shlex.split(words)).params
    overrides = {key: value for key, value in params.items() if key in OVERRIDES}
    assert load_given(params["study"], params["config_file"], overrides).name


@pytest.mark.parametrize("words", commands("numastudy"))
def test_a_documented_command_has_these_options(words: str) -> None:
    # What follows "--" is the user's own command.
    name, *options = shlex.split(re.sub(r" \| .*?(?=\s--|$)|[\[\]]", "", words.partition(" -- ")[0]))
    command = main.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_make_targets_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:", link)]
    assert not [link for link in links if not (page.parent / link.partition("#")[0]).exists()]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`|^    make ([a-z-]+)", text, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_by_a_page_exist(page: Path) -> None:
    named = {name for name in FILE.findall(page.read_text()) if not name.startswith("tests/reference")}
    assert not [name for name in named if not any(ROOT.glob(name))]


def map_rows() -> list[tuple[str, str]]:
    """(file, what to look for in it) of the first table of docs/architecture.md."""
    table = ARCHITECTURE.partition("## Find it")[2].partition("\n## ")[0]
    return re.findall(r"^\| .+\? \| `([^`]+)` \| (.+) \|$", table, re.MULTILINE)


@pytest.mark.parametrize(("file", "names"), map_rows(), ids=lambda text: text.replace("/", ".")[:40])
def test_the_map_names_what_is_in_the_file(file: str, names: str) -> None:
    text = (ROOT / file).read_text()
    first = re.match(r"`(\w+)`", names)
    assert first is None or re.search(rf"^ *(?:def |class )?{first[1]}\b", text, re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text().split()) < 900


def test_the_map_has_every_room() -> None:
    rooms = {path.name for path in (ROOT / "bench").iterdir() if (path / "__init__.py").exists()}
    assert {room for room in rooms if f"`bench/{room}/`" not in ARCHITECTURE} == set()


def test_pages_of_the_site_have_every_command_and_key() -> None:
    """The pages are made while the site is built (make docs)."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/pages.py")
    assert spec and spec.loader
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    commands = pages.commands()
    assert all(f"## {name}\n" in commands for name in main.commands)
    assert all(f"| `{key}` |" in pages.study_keys() for key in Study.__struct_fields__)
    assert "[r](reference/example_two_nodes/report.html)" in pages.on_page_markdown("[r](reference/example_two_nodes)")
    page = pages.on_post_page('<input aria-hidden="true"  type="radio" name="__palette"><table>\n</table>')
    assert 'name="__palette" tabindex="-1"' in page and '<div class="table" tabindex="0"><table>' in page
