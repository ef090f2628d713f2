"""What somebody else writes from the JSON Schema alone is read by the commands."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cli import main
from tests.records.by_hand import write_study

MODELS = ("vit0x0x0", "vit32x2x128")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)


def schema_of(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command("schema", file).stdout)
    return found


def against(value: Any, schema: dict[str, Any], whole: dict[str, Any], where: str = "$") -> list[str]:
    """What of the value the schema does not allow; keys that no property names included."""
    if "$ref" in schema:
        return against(value, whole["$defs"][schema["$ref"].rpartition("/")[2]], whole, where)
    if "anyOf" in schema:
        tried = [against(value, one, whole, where) for one in schema["anyOf"]]
        return min(tried, key=len)
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is none of {schema['enum']}")
    if "type" in schema and (
        not isinstance(value, _TYPES[schema["type"]]) or isinstance(value, bool) != (schema["type"] == "boolean")
    ):
        return [f"{where}: {value!r} is no {schema['type']}"]
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{where}: {value!r} does not match {schema['pattern']}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{where}: {value} is too small")
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for at, item in enumerate(value):
            found += against(item, schema["items"], whole, f"{where}[{at}]")
    if isinstance(value, dict) and "properties" in schema:
        found += [f"{where}: {key} is required" for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            if key not in schema["properties"]:
                found.append(f"{where}: {key} is no property")
            else:
                found += against(item, schema["properties"][key], whole, f"{where}.{key}")
    return found


def result(samples_s: float, wobble: float) -> dict[str, Any]:
    batch_s = 10 / samples_s
    windows = [{"batches": 100, "duration_s": 100 * batch_s * (1 + 0.01 * math.sin(wobble + at))} for at in range(9)]
    latency = {"count": 900, "p50": 2e6 * batch_s, "p99": 2.4e6 * batch_s, "max": 3e6 * batch_s}
    return {"throughput_samples_s": samples_s, "windows": windows, "latency_us": latency}


def made(folder: Path, penalty: float = 0.08, level: float = 1.0) -> Path:
    runs = {
        (model, node): [
            result(
                level * (1000 + 400 * at) * (1 - penalty * node) * (1 + 0.002 * math.sin(7 * repeat + 3 * node)), repeat
            )
            for repeat in range(6)
        ]
        for at, model in enumerate(MODELS)
        for node in (0, 1)
    }
    return write_study(folder, runs)


def test_everything_written_by_hand_is_allowed_by_the_schema(tmp_path: Path) -> None:
    study = made(tmp_path / "study")
    runs = sorted(study.glob("runs/*.json"))
    assert len(runs) == 24
    files = [(study / file, file) for file in ("study.yaml", "topology.json", "grid.json")]
    schemas = {name: schema_of(name) for name in ("study.yaml", "topology.json", "grid.json", "runs/*.json")}
    for file, name in [*files, *((run, "runs/*.json") for run in runs)]:
        assert against(json.loads(file.read_text()), schemas[name], schemas[name]) == []


def test_the_check_sees_what_the_schema_does_not_allow() -> None:
    whole = schema_of("grid.json")
    slot = {"cell": "a b", "repeat": 0, "block": 1, "colour": "red"}
    found = against({"cells": [], "order": [slot]}, whole, whole)
    assert len(found) == 4, found


def test_report_and_compare_read_it(tmp_path: Path) -> None:
    base, new = made(tmp_path / "base"), made(tmp_path / "new", level=0.9)
    reported = command("report", base)
    assert reported.exit_code == 0, reported.output
    results = json.loads((base / "results.json").read_text())
    whole = schema_of("results.json")
    assert against(results, whole, whole) == []
    assert [entry["verdict"] for entry in results["penalties"]] == ["SLOWER", "SLOWER"]
    for entry in results["penalties"]:
        assert entry["penalty"] == pytest.approx(0.08, abs=0.01) and entry["headline"]
        p50 = entry["changes"]["latency_p50"]
        assert p50["change"] == pytest.approx(1 / 0.92 - 1, abs=0.01) and p50["verdict"] == "SLOWER"
    compared = command("compare", base, new)
    assert compared.exit_code == 3 and "10.0 % slower" in compared.output
    assert command("compare", base, base).exit_code == 0
