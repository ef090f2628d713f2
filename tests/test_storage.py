"""Files that are whole or not there, and what killed writers leave."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bench.errors import StudyError
from bench.storage import boot_id, process_identity, remove_stale, stat_fields, whole_database, whole_file, write_json

KILLED = """
import os, signal, sys
from bench.storage import whole_file
with whole_file(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_writer_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL and not path.exists()
    (left,) = tmp_path.iterdir()
    with whole_file(path) as of_this_one:
        of_this_one.write_text("1")
        remove_stale(tmp_path, "**/.*.part")
        assert of_this_one.exists() and not left.exists()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [".r.json.x.part", ".r.json.part", ".part", ".a.1-2-3.part", ".r.OWNER.x.part"])
def test_files_of_unknown_or_living_writers_stay(tmp_path: Path, name: str) -> None:
    name = name.replace("OWNER", process_identity())  # of this process, which lives
    if name == ".a.1-2-3.part":
        name = f".a.{boot_id()[:8]}-1-2-3.x.part"  # of a container whose processes are not seen here
    (tmp_path / name).touch()
    remove_stale(tmp_path, "**/.*.part")
    assert (tmp_path / name).exists()


def test_temporaries_of_an_earlier_boot_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".r.json.00000000-4026531836-7-7.x.part").touch()
    remove_stale(tmp_path, "**/.*.part")
    assert list(tmp_path.iterdir()) == []


def test_long_file_name_can_be_written(tmp_path: Path) -> None:
    write_json(tmp_path / ("x" * 240 + ".json"), 1)


def test_error_inside_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_json(path, 1)
    with pytest.raises(KeyError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert json.loads(path.read_bytes()) == 1 and list(tmp_path.iterdir()) == [path]


def build(path: Path, statement: str) -> None:
    """A database of at most two pages."""
    with whole_database(path) as temporary, closing(sqlite3.connect(temporary)) as connection:
        connection.execute("PRAGMA max_page_count = 2")
        connection.execute(statement)


def test_database_without_room_is_reported_as_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    path.write_text("old")
    with pytest.raises(StudyError, match="No space left on device") as failure:
        build(path, "CREATE TABLE numbers AS SELECT zeroblob(100000) AS number")
    assert failure.value.where == str(path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("results.db", "old")]


def test_wrong_statement_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        build(tmp_path / "results.db", "SELECT * FROM nothing")


def test_file_in_place_of_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="cannot write: "):
        write_json(tmp_path / "file" / "r.json", 1)


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", 1)
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "r.json").stat().st_mode & 0o777 == 0o666 & ~mask


def test_process_with_a_name_that_is_no_text_has_its_fields() -> None:
    """Names are cut after 15 bytes, in the middle of a letter too."""
    rename = "import ctypes; ctypes.CDLL(None).prctl(15, b'worker-\\xc3) \\xff'); print(flush=True); input()"
    argv = [sys.executable, "-S", "-c", rename]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        fields = stat_fields(process.pid)
        process.communicate(b"\n")
    assert fields and int(fields[1]) == os.getpid()
