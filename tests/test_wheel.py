"""The wheel outside the checkout: real pip and real virtual environments, which find the other packages of this one."""

import configparser
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SITE = Path(str(distribution("click").locate_file("")))
MEASURING = {"luigi", "timm", "torch", "torchvision"}


def requirements(lines: str) -> set[str]:
    return {line.strip() for line in lines.splitlines() if line.strip() and not line.startswith("#")}


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0]


def reading() -> set[str]:
    return requirements((ROOT / "requirements-read.txt").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Of a copy: setuptools leaves its build folder beside the sources.
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", "outputs", "tests", "build", "docs"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "."]
    done = subprocess.run(pip, cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("numastudy-*.whl")
    return built


def installed(wheel: Path, folder: Path, packages: Path) -> Path:
    """The bin folder of a new environment with the wheel, which finds its requirements in `packages`."""
    venv.create(folder, symlinks=True, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "requirements.pth").write_text(f"{packages}\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(folder / "bin/python"), "install", "--no-deps"]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def linked(names: set[str], folder: Path) -> Path:
    """A folder with these distributions and what they require, and nothing else."""
    folder.mkdir()
    waiting, seen = list(names), set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop().lower())
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        for top in {Path(file).parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            (folder / top).exists() or (folder / top).symlink_to(SITE / top)
        waiting += [name_of(one) for one in found.requires or () if ";" not in one]
    return folder


def run(command: list[str], cwd: Path, timeout_s: float = 240) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_file_for_readers_has_all_but_what_measuring_needs() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    needed = requirements(config["options"]["install_requires"])
    assert {one for one in needed if name_of(one) not in MEASURING} == reading()


@pytest.mark.slow
def test_the_wheel_measures_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    place = installed(wheel, tmp_path / "venv", SITE)
    empty = tmp_path / "empty"
    empty.mkdir()
    found = run([str(place / "python"), "-c", "import bench, tasks; print(bench.__file__, tasks.__file__)"], empty)
    assert found.count(str(tmp_path)) == 2
    assert "3 cells" in run([str(place / "numastudy"), "plan", "QuickTest"], empty)
    command = [str(place / "python"), "-m", "luigi", "--module", "tasks", "QuickTest", "--local-scheduler"]
    run([*command, "--num-samples", "20", "--models", '["vit0x0x0"]'], empty, timeout_s=800)
    assert [*empty.glob("outputs/quick_test/*/*/report.html")]


@pytest.mark.slow
def test_reading_works_without_torch(wheel: Path, tmp_path: Path) -> None:
    place = installed(wheel, tmp_path / "venv", linked({name_of(one) for one in reading()}, tmp_path / "packages"))
    missing = "import importlib.util as u; print([n for n in ('torch', 'timm', 'luigi') if u.find_spec(n)])"
    assert run([str(place / "python"), "-c", missing], tmp_path) == "[]\n"
    results = tmp_path / "study/2026-11-30/01-00-00"
    shutil.copytree(ROOT / "docs/reference/example_two_nodes", results)
    for words in (
        ["schema"],
        ["doctor"],
        ["plan", "NumaStudy"],
        ["history", "--output-dir", ".", "--add", str(results)],
        ["compare", str(results), str(results)],
    ):
        run([str(place / "numastudy"), *words], tmp_path)
