"""The block `command` of a study: what is read, what is refused and where, and its cells."""

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from bench.errors import StudyError
from bench.records.host import Node, Topology
from bench.study.command import matches, study_name, why_elsewhere
from bench.study.directory import freeze
from bench.study.grid import expand_here
from bench.study.load import StudyDefinition, load_study, read_study

HOST = Topology(
    nodes=tuple(
        Node(id=node, cpus=f"{node}", allowed_cpus=f"{node}", memory_bytes=1 << 34, distances={0: 10, 1: 20})
        for node in (0, 1)
    )
)

RANKS = {"regex": r"(?P<rank>\d+): (\d+)", "unit": "s", "better": "lower"}


def study(command: Any, **changes: Any) -> StudyDefinition:
    values = {"name": "mine", "gpu_ids": [0], "numa_nodes": [0, 1], "device": "cpu", "command": command}
    return read_study(values | {"binding": "none"} | changes, "f.yaml", folder=Path("/where/it/is"))


def test_text_is_split_and_the_folder_is_that_of_the_file():
    block = study({"run": "bench 'a b' --c", "cwd": "sub"}).command
    assert block.run == ("bench", "a b", "--c") and block.cwd == "/where/it/is/sub"
    assert study("bench --c").command.run == ("bench", "--c")
    (model,) = study({"run": "bench", "variants": {"other": {"cwd": "sub"}}}).models
    assert model.command.cwd == "/where/it/is/sub"


def test_cells_are_named_by_variant_and_have_no_traced_run():
    variants = {"plain": {}, "own_bind": {"server": ["serve", "--bind"], "ready": "ready"}}
    here = expand_here(study({"run": ["/opt/x/bench"], "variants": variants}, repeats=2), HOST)
    assert [cell.name for cell in here.grid.cells] == [
        f"command_gpu0_numa{node}_{name}" for node in (0, 1) for name in ("plain", "own_bind")
    ]
    assert {slot.repeat for slot in here.grid.order} <= set(range(1, 10)) and here.study.is_traced is False
    assert here.grid.cells[1].model.command.measured == ("serve", "--bind")
    (first, _) = expand_here(study({"run": ["/opt/x/bench"]}), HOST).grid.cells
    assert first.name == "command_gpu0_numa0_bench"


def test_key_is_what_is_started_and_read_not_where_it_starts():
    def key(command: dict[str, Any], **changes: Any) -> str:
        return expand_here(study(command, **changes), HOST).grid.cells[0].key

    base = {"run": ["a"], "read": "wall"}
    assert key(base) == key(base | {"cwd": "elsewhere", "warmup_runs": 3}) == key(base, timeout_s=9)
    others = [{"run": ["b"]}, {"read": "json"}, {"env": {"A": "1"}}, {"pass_env": ["A"]}, {"gpus": "all"}]
    assert len({key(base), *(key(base | other) for other in others)}) == 6


def test_variants_that_differ_in_their_folder_have_keys_of_their_own():
    def keys(**variants: dict[str, Any]) -> list[str]:
        cells = expand_here(study({"run": ["a"], "variants": variants}, numa_nodes=[0]), HOST).grid.cells
        return [cell.key for cell in cells]

    (plain,) = {cell.key for cell in expand_here(study({"run": ["a"]}, numa_nodes=[0]), HOST).grid.cells}
    one, other, third = keys(x={}, y={"cwd": "y"}, z={"cwd": "z"})
    assert one == plain and len({one, other, third}) == 3
    # Known before: what differs otherwise too, and what is measured against itself.
    assert keys(x={}, y={"cwd": "y", "env": {"A": "1"}})[1] == keys(x={}, y={"env": {"A": "1"}})[1]
    assert keys(x={"cwd": "y"}, y={"cwd": "y"}) == [plain, plain]


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ("python3 x.py --config y.py", "x"),
        ("/usr/bin/python3.11 -u -X dev tools/x.py", "x"),
        ("python3 -m vllm.bench --model x.py", "vllm.bench"),
        ("python3 -c pass", "python3"),
        ("torchrun --nproc-per-node 8 train.py", "train"),
        ("bash run-it.sh", "run-it"),
        ("./bench --config x.py", "bench"),
        ("./x.py", "x.py"),
    ],
)
def test_study_is_named_by_its_script(argv, name):
    assert study_name(argv.split()) == name


@pytest.mark.parametrize(
    ("command", "where", "what"),
    [
        ({"run": ["a", 3]}, "command.run[1]", "Expected `str`, got `int`"),
        ({"run": []}, "command.run", "nothing to run"),
        ({"run": ["a"], "rum": 1}, "command", "unknown key 'rum' (did you mean run?)"),
        ({"run": ["a"], "read": "vlm"}, "command.read", "did you mean vllm?"),
        ({"run": ["a"], "server": ["b"]}, "command", "a server needs ready"),
        ({"run": ["a"], "ready": "x"}, "command", "ready is of a server"),
        ({"run": ["a"], "server": "b", "ready": "("}, "command.ready", "not a regular expression"),
        ({"run": ["a"], "server": "b", "ready": "http://127.0.0.1:{port"}, "command.ready", "is no URL: Port could"),
        ({"run": ["a"], "server": "b", "ready": "http:///health"}, "command.ready", "is no URL: it has no host"),
        ({"run": ["a"], "metrics": {"m": {"regex": "x", "unit": "s", "better": "lower"}}}, "m.regex", "one group"),
        ({"run": ["a"], "metrics": {"m": {"regex": "(x)", "unit": "s"}}}, "command.metrics", "better"),
        ({"run": ["a"], "metrics": {"m": RANKS | {"regex": "(?P<rank>.)"}}}, "m.regex", "one group"),
        ({"run": ["a"], "metrics": {"m": RANKS, "m_straggler": RANKS}}, "command.metrics", "made from the ranks"),
        ({"run": ["a"], "metrics": {"m": RANKS}, "primary": "n_straggler"}, "command.primary", "no metric n_straggler"),
        ({"run": ["a"], "env": {"KEY": "1"}, "pass_env": ["K*"]}, "command", "in env and in pass_env"),
        ({"run": ["a"], "variants": {"x": {"read": "wall"}}}, "variants.x", "the same for all variants"),
        ({"run": ["a"], "variants": {"x": {"gpus": "two"}}}, "variants.x.gpus", "two"),
        ({"run": ["a\0b"]}, "command.run[0]", "Expected `str` matching regex"),
        ({"run": ["a"], "env": {"KEY": "a\0b"}}, "command.env[...]", "Expected `str` matching regex"),
        ({"run": ["a"], "cwd": 1}, "command.cwd", "Expected `str`"),
        ({"run": ["a\udcff"]}, "command", "not UTF-8"),
        ({"run": "a 'b"}, "command.run", "cannot be split"),
        (["a"], "command", "allowed is a mapping"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(command, where, what):
    with pytest.raises(StudyError) as refused:
        study(command)
    assert (what in refused.value.what and refused.value.where.endswith(where)) or where in refused.value.where


@pytest.mark.parametrize("change", [{"batch_size": 2}, {"axes": {"dtype": ["bf16"]}}, {"models": ["vit0x0x0"]}])
def test_settings_of_the_pipeline_are_refused(change):
    with pytest.raises(StudyError, match=r"of the pipeline|exclude each other"):
        study({"run": ["a"]}, **change)


@pytest.mark.parametrize(
    "argv", ["docker run x", "/usr/bin/kubectl exec x", "ssh host x", "srun x", "mpirun --host a,b x", "mpirun -H=a x"]
)
def test_what_starts_elsewhere_is_refused_unless_it_binds_itself(argv):
    with pytest.raises(StudyError, match="starts its processes elsewhere") as refused:
        study({"run": argv}, binding="numactl")
    assert "binding: self" in refused.value.advice
    assert why_elsewhere(study({"run": argv}, binding="self").models[0].command)


def test_local_mpirun_and_the_client_of_a_server_are_fine():
    assert not why_elsewhere(study("mpirun -n 2 x").models[0].command)
    served = {"run": "ssh host ask", "server": "serve", "ready": "up"}
    assert study(served, binding="numactl").command.server == ("serve",)


def test_ratio_of_ranks_may_be_what_is_compared():
    block = study({"run": ["a"], "metrics": {"m": RANKS}, "primary": "m_straggler"}).command
    assert block.primary == "m_straggler"


def test_some_bindings_are_of_a_command_only():
    for binding in ("self", "preferred", "interleave"):
        values = {"name": "n", "gpu_ids": [0], "numa_nodes": [0], "models": ["vit0x0x0"], "binding": binding}
        with pytest.raises(StudyError, match=f"binding {binding} is of a command"):
            read_study(values, "f")


def test_binding_is_an_axis():
    bindings = ["none", "self", "preferred", "interleave", "cpus", "numactl"]
    cells = expand_here(study({"run": ["a"]}, axes={"binding": bindings}), HOST).grid.cells
    assert [cell.binding for cell in cells] == bindings * 2
    assert len({cell.group for cell in cells}) == 6
    assert {cell.name.rpartition("_a")[2] for cell in cells} == {
        "", "_self-bound", "_preferred", "_interleaved", "_cpus-bound", "_bound"
    }  # fmt: skip


def test_study_is_read_again_from_what_it_says_of_itself():
    definition = study({"run": ["a"], "variants": {"x": {}, "y": {"env": {"A": "1"}}}}, repeats=3)
    again = read_study(definition.as_json(), "again")
    assert again.as_json() == definition.as_json() and "batch_size" not in definition.as_json()


def test_names_of_variables_match_by_their_beginning():
    assert matches("NCCL_DEBUG", ("NCCL_*",)) and matches("A", ("A",)) and not matches("AB", ("A",))


@pytest.mark.parametrize(
    "values",
    [
        {
            "command": {"run": ["a"], "variants": {"x": {}, "y": {"cwd": "y"}}},
            "axes": {"binding": ["none", "self"]},
            "numa_nodes": [0, 1],
        },
        {
            "numa_nodes": [0],
            "models": ["vit0x0x0", {"model": "vit32x2x256", "heads": 4}],
            "axes": {"buffers": [1, 2]},
        },
        {"models": ["timm:resnet18"], "batch_size": 4, "placements": [[0, 1], [1, 0]]},
    ],
    ids=["command", "vits", "timm"],
)
def test_study_of_a_run_directory_is_a_study_file(tmp_path, values):
    """With each value that its command line had changed: that is what decides what is open."""
    common = {"name": "mine", "gpu_ids": [0], "device": "cpu", "repeats": 7}
    definition = read_study(common | values, "f", {"seed": 3})
    here = expand_here(definition, HOST)
    freeze(tmp_path, structs.replace(here.study, created_by="now"), HOST, here.grid)
    again = expand_here(load_study(tmp_path / "study.yaml", {"repeats": 9}), HOST)
    assert [cell.key for cell in again.grid.cells] == [cell.key for cell in here.grid.cells]
    assert [cell.settings for cell in again.grid.cells] == [cell.settings for cell in here.grid.cells]
    assert (again.study.repeats >= 9, again.study.seed, again.study.name) == (True, 3, "mine")
