"""`import tasks` comes first in every call of luigi."""

import os
import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "numpy", "pandas", "matplotlib", "scipy", "timm", "sqlite_utils")


def test_import_tasks_loads_no_large_library() -> None:
    code = f"import sys, tasks; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_summary_at_exit_loads_no_large_library() -> None:
    """Some of them cannot be loaded so late, and all of them take longer than a study that is up to date."""
    modules = "bench.analysis.load, bench.report.tables"
    code = f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PARSERS = """
from luigi.cmdline_parser import CmdlineParser
build, built = CmdlineParser._build_parser, []
CmdlineParser._build_parser = staticmethod(lambda *asked, **named: built.append(1) or build(*asked, **named))
import luigi, tasks
words = ["--module", "tasks", "QuickTest", "--repeats", "7"]
repeats = [CmdlineParser(words).known_args.repeats for _ in range(3)]
class Later(luigi.Task):
    colour = luigi.Parameter()
print(repeats, len(built), CmdlineParser(["Later", "--colour", "red"]).known_args.colour)
"""


def test_parser_of_all_options_is_built_once_for_each_set_of_tasks() -> None:
    """luigi would build nine in a call, which take longer than a study that is up to date."""
    done = subprocess.run([sys.executable, "-c", PARSERS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['7', '7', '7'] 2 red"


def test_project_settings_apply_in_any_directory(tmp_path: Path) -> None:
    code = (
        "import luigi, tasks; config = luigi.configuration.get_config();"
        "print(config.get('retcode', 'task_failed'), config.get('core', 'no_lock'))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "LUIGI_CONFIG_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["30", "true"]


def test_user_settings_take_precedence(tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[retcode]\ntask_failed = 77\n")
    code = "import luigi, tasks; c = luigi.configuration.get_config(); print(c.get('retcode', 'task_failed'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "77"
