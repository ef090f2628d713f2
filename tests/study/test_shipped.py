"""The studies that ship, and the commands of docs/studies.md, on a recorded host: 4 GPUs, two nodes."""

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from bench.errors import StudyError
from bench.records.host import Topology
from bench.study.grid import expand_here
from bench.study.load import (
    TASKS,
    StudyDefinition,
    configs_folder,
    load_study,
    read_yaml,
    shipped_names,
    study_path,
)
from bench.study.plan import plan
from bench.study.settings import AXIS_KEYS, SETTINGS, Setting
from bench.study.yaml_text import parse_yaml
from tests.host.made_hosts import host_topology

ROOT = Path(__file__).parents[2]
COUNTS = {
    "nearest_node": 16,
    "numa_locality_study": 48,
    "quick_test": 3,
    "model_scaling_study": 9,
    "self_check": 8,
    "compile_study": 30,
    "contention_study": 18,
    "placement_2x2": 24,
    "rq1_model_architecture": 39,
    "rq2_resolution": 21,
    "rq3_compilation": 45,
    "rq4_numa": 54,
    "rq5_pipeline_design": 51,
}
# What this machine would have to be asked about.
FIXED = {"binding": "numactl", "profiler": "torch", "budget": 0}


@pytest.fixture(scope="module")
def two_sockets() -> Topology:
    return host_topology("two_sockets")


def test_every_file_is_counted() -> None:
    assert set(shipped_names()) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_shipped_study_is_found_by_name(name: str, two_sockets: Topology, tmp_path: Path) -> None:
    study = load_study(name, FIXED)
    made = plan(study, tmp_path, topology=two_sockets)
    assert (study.name, len(made.cells)) == (name, COUNTS[name])
    assert study.question.endswith("?")
    assert made.runs == COUNTS[name] * (made.repeats + 1)
    assert [note for note in made.notes if "compared" not in note and "to compare" not in note] == []


@pytest.mark.parametrize("name", COUNTS)
def test_shipped_study_can_run_on_its_nodes(name: str, two_sockets: Topology) -> None:
    """The files say node 2; this host's second node is node 1. It has four GPUs, not eight."""
    overrides = dict(FIXED)
    if name == "placement_2x2":
        overrides["placements"] = [[0, 0], [0, 1], [1, 0], [1, 1]]
    elif name in ("numa_locality_study", "rq4_numa"):
        overrides["numa_nodes"] = [0, 1]
    reasons = {cell.name: cell.reason for cell in expand_here(load_study(name, overrides), two_sockets).grid.cells}
    left = {cell for cell, reason in reasons.items() if reason}
    assert left == {cell for cell in reasons if "_gpus8" in cell}


def readme_commands() -> list[tuple[str, int]]:
    """(command, cells) of the lines of docs/studies.md that say how many cells they have."""
    text = (ROOT / "docs/studies.md").read_text().replace("\\\n", " ")
    found = re.findall(r"^    luigi --module tasks (.+?)\s+# (\d+) cells", text, re.MULTILINE)
    return [(command, int(count)) for command, count in found]


def asked(command: str) -> StudyDefinition:
    task, *words = shlex.split(command)
    values: dict[str, Any] = {}
    for option, text in zip(words[::2], words[1::2], strict=True):
        try:
            values[option.removeprefix("--").replace("-", "_")] = json.loads(text)
        except ValueError:
            values[option.removeprefix("--").replace("-", "_")] = text
    return load_study(values.pop("config_file", TASKS.get(task, task)), FIXED | values)


def test_readme_has_the_five_scenarios() -> None:
    assert sorted(count for _, count in readme_commands()) == [9, 12, 18, 48, 96]


@pytest.mark.parametrize(("command", "count"), readme_commands())
def test_readme_command_has_the_stated_number_of_cells(
    command: str, count: int, two_sockets: Topology, tmp_path: Path
) -> None:
    assert len(plan(asked(command), tmp_path, topology=two_sockets).cells) == count


def test_readme_lists_each_study_with_its_count() -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9_]+)` \| (\d+) \|", (ROOT / "docs/studies.md").read_text(), re.MULTILINE))
    tasks = set(TASKS.values())
    assert {name: int(count) for name, count in rows.items()} == {
        name: count for name, count in COUNTS.items() if name not in tasks
    }


def test_own_file_is_preferred_to_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert study_path("compile_study") == study_path("compile_study.yaml") == configs_folder() / "compile_study.yaml"
    (tmp_path / "compile_study.yaml").write_text("")
    assert study_path("compile_study.yaml") == Path("compile_study.yaml")
    (tmp_path / "QuickTest").write_text("")
    assert study_path("QuickTest") == configs_folder() / "quick_test.yaml"
    with pytest.raises(StudyError, match="did you mean compile_study"):
        study_path("compil_study")
    with pytest.raises(StudyError, match="rq5_pipeline_design"):
        study_path("nightly")
    with pytest.raises(StudyError, match="File name too long"):
        study_path("a study written out where its name belongs " * 10)


@pytest.mark.parametrize(
    ("name", "runs", "digest"),
    [
        ("numa_locality_study", 480, "8e4efc8975eb09b9"),
        ("quick_test", 15, "5807a1bda744dd2e"),
        ("model_scaling_study", 90, "16814c803a9d6e76"),
        ("self_check", 80, "bfbc8bf95d0ab1d6"),
    ],
)
def test_order_of_the_first_studies_never_changes(name: str, runs: int, digest: str, two_sockets: Topology) -> None:
    overrides = {"binding": "none", "profiler": "torch"} | ({"numa_nodes": [0, 1]} if name.startswith("numa") else {})
    order = expand_here(load_study(name, overrides), two_sockets).grid.order
    text = json.dumps([[slot.cell, slot.repeat, slot.group] for slot in order])
    assert (len(order), hashlib.sha256(text.encode()).hexdigest()[:16]) == (runs, digest)


def test_example_of_the_documentation_is_a_study(two_sockets: Topology, tmp_path: Path) -> None:
    text = re.search(r"```yaml\n(.+?)```", (ROOT / "docs" / "axes.md").read_text(), re.DOTALL).group(1)
    path = tmp_path / "example.yaml"
    path.write_text(text)
    made = plan(load_study(path, FIXED), tmp_path, topology=two_sockets)
    crossed = 4 * 6 * 2 * 2  # a node for each GPU, 6 models, dtypes, batch sizes
    excluded = 4 * 6
    included = 4 * 2 * 2 + 4 * 2 * 2
    assert len(made.cells) == crossed - excluded + included


@pytest.mark.parametrize("task", sorted(TASKS))
def test_commands_of_the_documentation_are_read(task: str, two_sockets: Topology, tmp_path: Path) -> None:
    """Each --sweep of the page with every study that is a task."""
    text = (ROOT / "docs" / "axes.md").read_text()
    sweeps = [json.loads(found) for found in re.findall(r"--sweep '(.+?)'", text)]
    assert len(sweeps) == 3
    for sweep in sweeps:
        before = len(plan(load_study(task, FIXED), tmp_path, topology=two_sockets).cells)
        assert len(plan(load_study(task, FIXED | {"sweep": sweep}), tmp_path, topology=two_sockets).cells) > before


def table(section: str) -> dict[str, list[str]]:
    """The rows of a section of docs/axes.md by key."""
    text = (ROOT / "docs" / "axes.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_0-9]+)` \|(.+)\|$", text, re.MULTILINE)
    return {key: [cell.strip() for cell in rest.split("|")] for key, rest in rows}


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("repeats: 3\nname: a\nrepeats: 5\n", "repeats", (1, 3)),
        ("axes:\n  dtype: [bf16]\naxes:\n  buffers: [1]\n", "axes", (1, 3)),
        ("axes:\n  dtype: [bf16]\n  'dtype': [fp32]\n", "dtype", (2, 3)),
        ("include: [{model: a, batch_size: 1, model: b}]\n", "model", (1, 1)),
    ],
)
def test_key_given_twice_is_named_with_its_lines(tmp_path: Path, text: str, key: str, lines: tuple[int, int]) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(StudyError) as refused:
        read_yaml(path)
    assert refused.value.what == f"the key {key} is given twice, first in line {lines[0]}"
    assert refused.value.where == f"{path}:{lines[1]}" and "keep one" in refused.value.advice


def test_merged_keys_may_be_given_again() -> None:
    """What << brings in gives way to the mapping's own; the same key in two mappings is two keys."""
    text = "a: &base {k: 1, m: 2}\nb: {<<: *base, k: 3}\nc: {<<: *base}\n"
    assert parse_yaml(text, Path("f")) == {"a": {"k": 1, "m": 2}, "b": {"k": 3, "m": 2}, "c": {"k": 1, "m": 2}}


def test_documentation_has_a_row_for_each_axis() -> None:
    assert set(table("The axes")) == set(AXIS_KEYS)
    assert all(len(row) == 6 and all(row) for row in table("The axes").values())
    rest = table("Of the whole study")
    assert set(rest) == set(SETTINGS) - set(AXIS_KEYS)
    for key, (meaning, values, default, costs) in rest.items():
        setting = SETTINGS[key]
        assert (meaning, default) == (setting.meaning, default_of(setting))
        number = f"{setting.minimum:.15g} to {setting.maximum:.15g}"
        assert values == (", ".join(setting.choices) or ("false, true" if setting.kind is bool else number))
        assert costs


def default_of(setting: Setting) -> str:
    return str(setting.default).lower() if setting.kind is bool else str(setting.default)


@pytest.mark.parametrize("key", [key for key in AXIS_KEYS if key in SETTINGS])
def test_documentation_row_agrees_with_the_setting(key: str) -> None:
    setting, (meaning, values, default, _, suffix, _) = SETTINGS[key], table("The axes")[key]
    assert meaning == setting.meaning
    assert default == default_of(setting)
    allowed = setting.choices or (("false", "true") if setting.kind is bool else ())
    for value in allowed:
        assert value in values
        if value != "auto":
            written = setting.axis.suffix_of({"true": True, "false": False}.get(value, value))
            assert f"`_{written}`" in suffix
    if not allowed:
        assert f"{setting.minimum:g}" in values and f"`_{setting.axis.suffix.format('N')}`" in suffix
