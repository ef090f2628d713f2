"""Pages of the site that are made from the code, so that they are always current: a hook of mkdocs (mkdocs.yml)."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli import main
from bench.records.schema import schema

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

README = Path(__file__).parents[1] / "README.md"


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    from mkdocs.structure.files import File

    # The README is the first page; its links are relative to the checkout, those of the site to docs/.
    index = README.read_text().replace("](docs/reference)", "](reference/README.md)").replace("](docs/", "](")
    for name, text in (("index.md", index), ("commands.md", commands()), ("keys.md", study_keys())):
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A folder of docs/reference is a page in a checkout; on the site its report is."""
    return re.sub(r"\]\((reference/)?(\w+)\)", _to_report, markdown)


def on_post_page(output: str, **_: Any) -> str:
    """What the theme leaves without a keyboard: tables that scroll get the focus, and the inputs of the two palettes,
    which nobody sees, do not."""
    output = re.sub(r"<table>.*?</table>", r'<div class="table" tabindex="0">\g<0></div>', output, flags=re.DOTALL)
    return re.sub(r'(aria-hidden="true"\s+type="radio" name="__palette")', r'\1 tabindex="-1"', output)


def _to_report(link: re.Match[str]) -> str:
    report = README.parent / "docs/reference" / link[2] / "report.html"
    return f"]({link[1] or ''}{link[2]}/report.html)" if report.exists() else link[0]


def commands() -> str:
    """Every command of numastudy with its arguments and options, as `--help` describes them."""
    parts = ["# Commands", "`numastudy COMMAND --help` prints the same. `luigi --module tasks STUDY` measures."]
    context = click.Context(main, info_name="numastudy")
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if command is not None and not command.hidden:
            own = click.Context(command, info_name=name, parent=context)
            parts += [f"## {name}", f"```text\n{command.get_usage(own)}\n```", inspect.cleandoc(command.help or "")]
            parts += ["\n".join(_options(command, own))]
    return "\n\n".join(filter(None, parts)) + "\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    rows = [record for one in command.params if (record := one.get_help_record(context))]
    if rows:
        yield from ("| option | meaning |", "|---|---|")
        # A "|" between backticks separates no columns.
        yield from (f"| `{' '.join(names.split())}` | {_cell(text)} |" for names, text in rows)


def study_keys() -> str:
    """Every key of a study file: type, limits, default and meaning."""
    found = schema("study.yaml")["$defs"]["Study"]["properties"]
    lines = ["# Keys of a study", "", "Each is also a parameter of a study's task: `batch_size` is `--batch-size`.", ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{key}` | {_kind(one)} | {_default(one)} | {_cell(one.get('description', ''))} |"
              for key, one in found.items()]  # fmt: skip
    return "\n".join(lines) + "\n"


def _kind(one: dict[str, Any]) -> str:
    if "enum" in one:
        return ", ".join(f"`{value}`" for value in one["enum"])
    if "anyOf" in one:
        return " or ".join(_kind(choice) for choice in one["anyOf"])
    if "$ref" in one:
        return str(one["$ref"]).rsplit("/", 1)[-1]
    names = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
    limits = [text.format(one[name]) for name, text in names.items() if name in one]
    return _cell(" ".join([str(one.get("type", "any")), *limits]))


def _default(one: dict[str, Any]) -> str:
    return f"`{json.dumps(one['default'])}`" if "default" in one else ""


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
