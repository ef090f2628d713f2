"""The rooms of the code: imports run one way, modules stay short, and luigi's tasks import no numerical library."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Each floor may import itself and those below it.
FLOORS = (
    ("bench.errors", "bench.records", "bench.storage", "bench.terminal", "bench.units"),
    ("bench.host", "bench.trace"),
    ("bench.workload",),
    ("bench.study", "bench.where", "bench.whatif"),
    ("bench.run",),
    ("bench.command",),
    ("bench.analysis",),
    ("bench.report",),
    ("bench.compare", "bench.history", "bench.nightly"),
    ("bench.cli", "bench.cluster", "bench.luigid", "bench.ui", "tasks"),
)
MOST_LINES = 450
NUMERICAL = {"torch", "pandas", "numpy", "scipy", "matplotlib", "timm"}
# A list of types, and a list of sentences, are read by name and not from top to bottom.
LONG_BY_NATURE = ("bench/records/", "bench/report/text")


def modules() -> list[Path]:
    return sorted(path for top in ("bench", "tasks") for path in (ROOT / top).rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names += (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            names += (f"{node.module}.{name.name}" for name in node.names)
    return tuple(names)


def floor_of(module: str) -> int | None:
    return next(
        (
            number
            for number, rooms in enumerate(FLOORS)
            for room in rooms
            if module == room or module.startswith(f"{room}.")
        ),
        None,
    )


def test_every_module_is_in_a_room():
    assert [path for path in modules() if dotted(path) != "bench" and floor_of(dotted(path)) is None] == []


def test_imports_run_one_way():
    upward = [
        f"{dotted(path)} imports {name}"
        for path in modules()
        for name in imported(path)
        if (floor_of(name) or 0) > (floor_of(dotted(path)) or 0)
    ]
    assert upward == []


def test_no_module_outside_tasks_imports_luigi():
    assert [
        path
        for path in modules()
        # bench.luigid is luigid with one more check, a process of its own.
        if dotted(path).startswith("bench")
        and dotted(path) != "bench.luigid"
        and "luigi" in {n.split(".")[0] for n in imported(path)}
    ] == []


def test_tasks_import_no_numerical_library():
    program = f"import sys, tasks; print(*{NUMERICAL!r} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).split() == []


def test_numbers_are_formatted_by_units_only():
    """A width like :8 is no format of a number, :.80 cuts a text."""
    formatted = [
        f"{dotted(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FormattedValue)
        and node.format_spec
        and re.search(r",|[fge%]'$", ast.unparse(node.format_spec))
    ]
    allowed = ("bench.units:", "bench.report.plots.style:")  # of these the pixels of CSS
    assert [place for place in formatted if not place.startswith(allowed)] == []


def test_no_module_is_too_long():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules()
        if (lines := len(path.read_text().splitlines())) > MOST_LINES
        and not str(path.relative_to(ROOT)).startswith(LONG_BY_NATURE)
    }
    assert long == {}
