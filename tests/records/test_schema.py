import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.records.schema import STORED, schema, table
from bench.records.study import StudySettings

ROOT = Path(__file__).parents[2]


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if "$ref" in value else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_reference_of_the_schema_has_its_definition() -> None:
    whole = schema()
    assert set(whole["files"]) == set(STORED)
    assert references(whole) <= {f"#/$defs/{name}" for name in whole["$defs"]}


def test_schema_of_one_file_has_only_its_records() -> None:
    index = schema("index.json")
    assert list(index["$defs"]) == ["IndexEntry"] and index["type"] == "object"


def test_schema_says_what_a_setting_means_and_allows() -> None:
    batch_size = schema("study.yaml")["$defs"]["Study"]["properties"]["batch_size"]
    assert batch_size == {
        "type": "integer", "minimum": 1, "maximum": 65536, "default": 10,
        "description": "samples copied and computed together",
    }  # fmt: skip
    assert set(StudySettings.__struct_fields__) < set(schema("study.yaml")["$defs"]["Study"]["properties"])


@pytest.mark.parametrize("file", STORED)
def test_command_prints_the_schema_of_a_file(file: str) -> None:
    result = CliRunner().invoke(main, ["schema", file])
    assert result.exit_code == 0 and json.loads(result.output) == json.loads(json.dumps(schema(file)))


def test_command_names_the_nearest_file_for_an_unknown_one() -> None:
    result = CliRunner().invoke(main, ["schema", "result.json"])
    assert result.exit_code == 2 and "did you mean results.json?" in result.output


def test_page_of_the_files_is_up_to_date() -> None:
    """If not: python -m bench.records.schema, and put the table into docs/files.md."""
    assert table() in (ROOT / "docs" / "files.md").read_text()
