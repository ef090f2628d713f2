"""Files that are whole or not there, and what killed writers leave."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import StudyError
from bench.files import read_json, sweep, whole_file, write_json

KILLED = """
import os, signal, sys
from bench.files import whole_file
with whole_file(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_is_killed_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL and not path.exists()
    (left,) = tmp_path.iterdir()
    sweep(tmp_path, "**/.*.part", older_than_s=3600)
    assert left.exists(), "it may belong to a living writer"
    os.utime(left, (time.time() - 7200,) * 2)
    sweep(tmp_path, "**/.*.part", older_than_s=3600)
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_json(path, 1)
    with pytest.raises(KeyError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert read_json(path) == 1 and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="cannot write: "):
        write_json(tmp_path / "file" / "r.json", 1)


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", 1)
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "r.json").stat().st_mode & 0o777 == 0o666 & ~mask
