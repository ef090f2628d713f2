"""Completion in a shell, as the lines of the documentation switch it on."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

NUMASTUDY = Path(sys.executable).with_name("numastudy")
BASH = shutil.which("bash") or ""


@cache
def script(shell: str = "bash") -> str:
    env = os.environ | {"_NUMASTUDY_COMPLETE": f"{shell}_source"}
    return subprocess.run([NUMASTUDY], env=env, capture_output=True, text=True, check=True, timeout=240).stdout


def completed(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last word, by the function of the script itself."""
    (folder / "complete.bash").write_text(script())
    line = " ".join(["numastudy", *words])
    call = (
        f"source ./complete.bash; COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
        '_numastudy_completion numastudy; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    env = os.environ | {"PATH": f"{NUMASTUDY.parent}:{os.environ['PATH']}"}
    done = subprocess.run([BASH, "-c", call], cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    return done.stdout.split()


def test_script_for_bash_is_valid() -> None:
    assert "complete " in script()
    subprocess.run([BASH, "-n"], input=script(), text=True, check=True, timeout=240)


@pytest.mark.parametrize(
    ("shell", "hooks"),
    [
        (
            "zsh",
            [
                "#compdef numastudy",
                "_NUMASTUDY_COMPLETE=zsh_complete numastudy",
                "compdef _numastudy_completion numastudy",
            ],
        ),
        ("fish", ["_NUMASTUDY_COMPLETE=fish_complete", "complete --no-files --command numastudy"]),
    ],
)
def test_scripts_for_other_shells_call_this_command(shell: str, hooks: list[str]) -> None:
    """These shells are not among what the tests install: their scripts are read, not run."""
    assert all(hook in script(shell) for hook in hooks), script(shell)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("plan", "Quick"), ["QuickTest"]),
        (("run", "Ne"), ["NearestNode"]),
        (("hist",), ["history"]),
        (("plan", "QuickTest", "--num-s"), ["--num-samples"]),
    ],
)
def test_bash_completes_studies_commands_and_options(
    tmp_path: Path, words: tuple[str, ...], offered: list[str]
) -> None:
    assert completed(tmp_path, *words) == offered
