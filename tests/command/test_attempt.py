"""One run of a command from the grid to its record: real processes, each way it can end."""

import errno
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bench.command import attempt, files, guard, looks
from bench.command.attempt import attempt_command
from bench.records.run import Outcome, PlacementVerdict, Run, read_record
from bench.run import child
from bench.run.attempt import execute
from bench.run.lock import HostLock
from bench.study.directory import RunDirectory, resolve
from bench.study.load import read_study

SERVING = str(Path(__file__).with_name("serving.py"))
ASK = "import sys, urllib.request as u; u.urlopen(f'http://127.0.0.1:{sys.argv[1]}/work').read(); print('rate: 12.5')"
RATE = {"rate": {"regex": r"rate: ([\d.]+)", "unit": "req/s", "better": "higher"}}
STUDY = {"name": "mine", "gpu_ids": [0], "numa_nodes": [0], "device": "cpu", "binding": "none", "timeout_s": 600}


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-S", "-c", program, *arguments]


def run(tmp_path: Path, command: dict[str, Any], repeat: int = 1, **changes: object) -> tuple[RunDirectory, Run]:
    definition = read_study(STUDY | changes | {"command": command}, "f", folder=tmp_path)
    directory = resolve(definition, tmp_path / "outputs", False, "now")
    grid = directory.grid()
    slot = grid.slot(grid.cells[0].name, repeat)
    lock = HostLock(tmp_path)
    record = execute(directory, grid.cells[0], slot, "now", lock, lambda _: None, attempt_once=attempt_command)
    lock.release()
    assert record == read_record(directory.record(slot.cell, slot.repeat), Run)
    return directory, record


def served(tmp_path: Path, mode: str = "", **changes: object) -> tuple[RunDirectory, Run]:
    command = {
        "run": python(ASK, "{port}"),
        "server": [sys.executable, "-S", SERVING, "{port}", *([mode] if mode else [])],
        "ready": "http://127.0.0.1:{port}/health",
        "metrics": RATE,
    }
    return run(tmp_path, command | dict(changes.pop("command", {})), **changes)


def left_behind(folder: Path) -> list[int]:
    """Processes that started in this folder, as a command does."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 60
    while left_behind(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_behind(tmp_path) == []


def test_wall_time_is_measured_by_the_guard(tmp_path):
    _, record = run(tmp_path, {"run": ["sleep", "0.25"], "read": "wall"})
    assert (record.status, record.exit_code) == (Outcome.OK, 0)
    assert 0.25 < record.metric.value < record.wall_s
    assert record.rate == pytest.approx(1 / record.metric.value)
    assert record.command == ["sleep", "0.25"]
    assert record.of_command.program.path.endswith("sleep") or record.of_command.program.path
    assert record.certificate.verdict is PlacementVerdict.NOT_BOUND


def test_result_file_names_value_unit_and_direction(tmp_path):
    program = (
        "import json, os; json.dump({'metrics': {'a': {'value': 5, 'unit': 'ms', 'better': 'lower'}}}, "
        "open(os.environ['NUMASTUDY_RESULT'], 'x'))"
    )
    _, record = run(tmp_path, {"run": python(program)})
    assert record.metric.value == 5 and record.metric.better == "lower"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("pass", "no result: nothing was written to NUMASTUDY_RESULT"),
        ("import os; os.symlink('/etc/hostname', os.environ['NUMASTUDY_RESULT'])", "symbolic link"),
        ("import os; os.mkfifo(os.environ['NUMASTUDY_RESULT'])", "not a regular file"),
        ("import os; open(os.environ['NUMASTUDY_RESULT'], 'w').write('7')", "not an output of json"),
        ("import os; open(os.environ['NUMASTUDY_RESULT'], 'w').write(' ' * 1048577)", "more than 1048576 bytes"),
        ("import os; open(os.environ['NUMASTUDY_RESULT'], 'w').write('{\"metrics\": {\"a\": 7}}')", "metric a"),
    ],
)
def test_no_number_is_no_result_and_not_tried_again(tmp_path, program, reason):
    _, record = run(tmp_path, {"run": python(program)})
    assert (record.status, record.attempts) == (Outcome.CRASHED, 1)
    assert reason in record.reason and "NUMASTUDY_RESULT" in record.advice


def test_regex_that_matches_nothing_is_named(tmp_path):
    _, record = run(tmp_path, {"run": ["true"], "metrics": RATE})
    assert record.reason == r"metric rate: nothing in the output matches 'rate: ([\\d.]+)'"


def test_failure_names_exit_code_and_last_line(tmp_path):
    _, record = run(tmp_path, {"run": python("import sys; print('x'); sys.exit('no such model')"), "read": "wall"})
    assert record.status is Outcome.CRASHED and record.attempts == 2
    assert record.reason == 'the command ended with exit code 1: "no such model"'
    _, killed = run(tmp_path, {"run": python("import os; os.kill(os.getpid(), 11)"), "read": "wall"}, name="killed")
    assert killed.reason.startswith("the command was killed by signal 11 (SIGSEGV)")


@pytest.mark.parametrize(
    ("text", "read", "value"),
    [
        ("rate: 9{}", {"metrics": RATE}, 92),
        ("# Out of bounds values : 0 OK\n# Avg bus bandwidth : 9{}", {"read": "nccl-tests"}, 92),
        ("{}", {"metrics": RATE}, None),
    ],
)
def test_number_of_an_earlier_attempt_is_no_result(tmp_path, text, read, value):
    """Both attempts write to one log."""
    program = (
        "import pathlib, sys; seen = pathlib.Path('seen'); again = seen.exists(); seen.touch(); "
        "print(sys.argv[1].format(2) if again else sys.argv[1].format('1\\nrate: 91')); sys.exit(not again)"
    )
    _, record = run(tmp_path, {"run": python(program, text), **read})
    assert record.attempts == 2 and record.failed_before.startswith("the command ended with exit code 1")
    if value:
        assert record.status is Outcome.OK and record.metric.value == value, record.reason
    else:
        assert record.reason.startswith("metric rate: nothing in the output matches")


@pytest.mark.slow
def test_server_is_not_ready_by_a_line_of_an_earlier_one(tmp_path):
    server = (
        "import pathlib, time; up, seen = map(pathlib.Path, ('up', 'seen'))\n"
        "if seen.exists(): up.unlink(missing_ok=True); time.sleep(0.3); up.touch()\n"
        "seen.touch(); print('up', flush=True); time.sleep(600)"
    )
    client = "import pathlib, sys; sys.exit(not pathlib.Path('up').exists())"
    command = {"run": python(client), "read": "wall", "server": python(server), "ready": "^up$"}
    _, record = run(tmp_path, command)
    assert (record.status, record.attempts) == (Outcome.OK, 2), record.reason
    (tmp_path / "up").unlink()
    # Another call empties the logs.
    _, record = run(tmp_path, command)
    assert (record.status, record.attempts) == (Outcome.OK, 1), record.reason


def test_program_that_does_not_exist_is_named(tmp_path):
    _, record = run(tmp_path, {"run": [f"{tmp_path}/missing"], "read": "wall"})
    assert f"cannot start {tmp_path}/missing: No such file or directory" in record.reason
    _, record = run(tmp_path, {"run": ["true"], "read": "wall", "cwd": "nowhere"}, name="other")
    assert record.reason.startswith("cannot start the command in ") and "cwd" in record.advice


def test_error_that_is_not_of_the_folder_says_nothing_of_it(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(attempt, "run_child", refuse)
    _, record = run(tmp_path, {"run": ["true"], "read": "wall"})
    assert record.reason == "cannot start a process: Resource temporarily unavailable"
    assert "cwd" not in record.advice and "ulimit" in record.advice


def test_command_that_hangs_is_a_timeout_and_leaves_nothing(tmp_path):
    program = (
        "import subprocess, sys, time; "
        "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'], start_new_session=True); "
        "time.sleep(600)"
    )
    _, record = run(tmp_path, {"run": python(program), "read": "wall"}, timeout_s=1)
    assert (record.status, record.attempts) == (Outcome.TIMEOUT, 1)
    assert "raise timeout_s" in record.advice


def test_server_is_ready_by_its_url_or_by_a_line(tmp_path):
    directory, record = served(tmp_path)
    assert record.status is Outcome.OK, record.reason
    assert record.metric.value == 12.5
    assert record.of_command.ready_s > 0 and record.of_command.page_looks == 2
    # The server and its two workers, one of them in a session of its own.
    assert len(record.of_command.processes) == 3
    assert record.of_command.client[-1].isdigit() and SERVING in record.command
    assert "listening" in directory.log(f"{record.run}_server", "stdout").read_text()
    _, record = served(tmp_path, command={"ready": r"^listening on {port}$"}, name="line")
    assert record.status is Outcome.OK, record.reason


@pytest.mark.parametrize(
    ("mode", "status", "reason"),
    [
        ("exit", Outcome.CRASHED, 'the server ended before it was ready: exit code 1: "no model"'),
        ("die", Outcome.CRASHED, "the server ended while the client ran: exit code 3"),
        ("deaf", Outcome.TIMEOUT, "the server was not ready after 2 s (http://127.0.0.1:"),
    ],
)
def test_server_that_fails_is_the_reason(tmp_path, monkeypatch, mode, status, reason):
    # A busy machine may take long to end it, when its client has failed.
    monkeypatch.setattr(attempt, "_SERVER_MAY_FOLLOW_S", 60.0)
    _, record = served(tmp_path, mode, timeout_s=2 if mode == "deaf" else 600)
    assert (record.status, record.reason[: len(reason)]) == (status, reason)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "reason", "advice"),
    [
        ("import os; os.fork() and os._exit(0); print('up', flush=True); time.sleep(600)", "exit code 0", "foreground"),
        ("print('x' * (2 << 16), flush=True); time.sleep(600)", "it wrote more than 0 MiB into its log", "log"),
    ],
)
def test_server_that_leaves_or_floods_its_log_is_named(tmp_path, monkeypatch, program, reason, advice):
    monkeypatch.setattr(child, "MOST_LOG_BYTES", 1 << 16)
    command = {"run": ["sleep", "600"], "read": "wall", "server": python(f"import time; {program}"), "ready": "^up$"}
    _, record = run(tmp_path, command)
    assert record.status is Outcome.CRASHED and record.reason.startswith("the server ended ")
    assert reason in record.reason and advice in record.advice


@pytest.mark.slow
def test_server_that_ignores_sigterm_is_killed(tmp_path):
    _, record = served(tmp_path, "stubborn")
    assert record.status is Outcome.OK, record.reason


def test_only_known_tokens_are_replaced(tmp_path):
    argv = python("import sys; print(sys.argv[1:]); print('rate: 1')", '{"a": "{x}"}', "{repeat}-{mem_node}", "{gpu}")
    _, record = run(tmp_path, {"run": argv, "metrics": RATE})
    assert record.command[-3:] == ['{"a": "{x}"}', "1-0", "0"]


def test_environment_is_the_users_own(tmp_path, monkeypatch):
    for name, value in {"SECRET": "hunter2", "NCCL_DEBUG": "INFO", "OTHER": "1", "OMP_WAIT_POLICY": "ACTIVE"}.items():
        monkeypatch.setenv(name, value)
    program = "import os; print(sorted(k for k in os.environ)); print(os.environ['SECRET'], 'rate: 1')"
    command = {"run": python(program), "metrics": RATE, "env": {"MINE": "{mem_node}"}, "pass_env": ["SECRET", "NCCL_*"]}
    directory, record = run(tmp_path, command)
    assert record.status is Outcome.OK, record.reason
    seen = directory.log(record.run, "stdout").read_text()
    assert "'MINE'" in seen and "'NCCL_DEBUG'" in seen and "'NUMASTUDY_CPU_NODE'" in seen
    assert not any(f"'{name}'" in seen for name in ("OTHER", "OMP_WAIT_POLICY", "PYTHONNOUSERSITE"))
    files = [file for file in (tmp_path / "outputs").rglob("*") if file.is_file()]
    assert files and not any(b"hunter2" in file.read_bytes() for file in files)


def test_no_record_has_what_a_failing_server_prints_of_a_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2\nhunter3")
    server = python("import os, sys; sys.exit('no access with ' + os.environ['SECRET'])")
    command = {"run": ["true"], "read": "wall", "server": server, "ready": "up", "pass_env": ["SECRET"]}
    _, record = run(tmp_path, command)
    assert record.reason == 'the server ended before it was ready: exit code 1: "no access with [SECRET]"'
    files = [file for file in (tmp_path / "outputs").rglob("*") if file.is_file()]
    assert files and not any(b"hunter" in file.read_bytes() for file in files)


def test_no_log_ever_has_a_secret_while_a_run_lasts(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2\nhunter3")
    server = python(
        "import os, time; print(os.environ['SECRET'], flush=True); print('up', flush=True); time.sleep(600)"
    )
    look = (
        "import pathlib, sys; found = [p for p in pathlib.Path('outputs').rglob('*') if p.is_file()]; "
        "sys.exit(any(b'hunt' + b'er' in p.read_bytes() for p in found) or "
        "not any(b'[SECRET]' in p.read_bytes() for p in found))"
    )
    command = {"run": python(look), "read": "wall", "server": server, "ready": "^up$", "pass_env": ["SECRET"]}
    _, record = run(tmp_path, command)
    assert record.status is Outcome.OK, record.reason


@pytest.mark.parametrize("seed", range(20))
def test_value_is_found_however_the_output_is_cut(seed):
    draw = random.Random(seed)
    values = {b"abab": b"[A]", b"ababc": b"[B]", b"x\ny": b"[C]"}
    content = b"".join(draw.choice((b"abab", b"ababc", b"ab", b"a", b"c", b"x\n", b"x\ny", b"z")) for _ in range(60))
    expected, rest = guard.named(content, values, whole=True)
    assert not rest and not any(value in expected for value in values)
    found, held = b"", b""
    while content:
        size = draw.randint(1, 9)
        part, held = guard.named(held + content[:size], values, whole=len(content) <= size)
        found, content = found + part, content[size:]
        assert len(held) < max(map(len, values))
    assert found == expected


def test_log_that_cannot_be_written_ends_the_program(tmp_path):
    """More than a pipe holds."""
    program = "import sys, time; sys.stdout.write('x' * 10**6); sys.stdout.flush(); time.sleep(600)"
    guarded = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(tmp_path / "report"), "SECRET"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*guarded, *python(program)], env={"SECRET": "hunter2"}, stdout=full, stderr=full, timeout=300
        )
    assert done.returncode != 0 and (tmp_path / "report").exists()


def test_result_that_holds_a_secret_gives_no_reason_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    program = "import os; open(os.environ['NUMASTUDY_RESULT'], 'w').write(os.environ['SECRET'])"
    _, record = run(tmp_path, {"run": python(program), "read": "hyperfine", "pass_env": ["SECRET"]})
    assert "found a text that begins with '[SECRET]'" in record.reason


def test_warm_up_runs_come_once_and_do_not_count(tmp_path):
    count = "import pathlib; p = pathlib.Path('count'); n = len(p.read_text()) if p.exists() else 0; "
    program = count + "p.write_text('x' * (n + 1)); print(f'rate: {n + 1}')"
    command = {"run": python(program), "metrics": RATE, "warmup_runs": 2}
    _, first = run(tmp_path, command)
    _, second = run(tmp_path, command, repeat=2)
    assert (first.metric.value, second.metric.value) == (3, 4)
    assert (first.of_command.warmup_runs, second.of_command.warmup_runs) == (2, 0)


def test_files_to_evict_leave_the_page_cache(tmp_path):
    (tmp_path / "weights").mkdir()
    for name in "ab":
        (tmp_path / "weights" / f"{name}.gguf").write_bytes(bytes(1 << 20))
    _, record = run(tmp_path, {"run": ["true"], "read": "wall", "evict": ["weights/*.gguf"]})
    assert record.of_command.evicted_files == 2


def comes_from_storage(path: Path) -> bool:
    """Whether the kernel counts that a file which is not cached is read. Some file systems hold theirs in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = guard._bytes_read()
        size = len(file.read())
        return guard._bytes_read() - before >= size


def test_record_has_what_came_from_the_storage_and_what_is_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LEAST_BYTES", 1 << 20)
    for name in ("weights", "mapped", "small"):
        (tmp_path / name).write_bytes(os.urandom((1 << 10) if name == "small" else (4 << 20)))
    from_storage = comes_from_storage(tmp_path / "weights")
    hold = "import mmap, os, time; held = [mmap.mmap(os.open(f, 0), 0, prot=1) for f in ('mapped', 'small')]; "
    server = python(hold + "print('up', flush=True); time.sleep(600)")
    # A child that its parent waits for.
    run_argv = python("import subprocess; subprocess.run(['cat', 'weights'], stdout=subprocess.DEVNULL)")
    command = {"run": run_argv, "read": "wall", "evict": ["weights"], "server": server, "ready": "^up$"}
    _, record = run(tmp_path, command)
    assert record.status is Outcome.OK, record.reason
    found = {Path(one.path).name: one for one in record.of_command.files}
    assert set(found) == {"weights", "mapped"} and not any(one.elsewhere for one in found.values())
    assert found["weights"].cached_bytes == found["weights"].bytes == 4 << 20
    # On a host that has just started the programs come from there too.
    assert record.of_command.storage_bytes >= (4 << 20 if from_storage else 0)


@pytest.mark.needs_root
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("mount", ["mount --bind own shared", "mount --rbind / root; mount --bind own root{}/shared"])
def test_file_of_a_container_is_the_one_it_reads(tmp_path, monkeypatch, mapped, mount):
    """The host has another file of this path: by the path it would be taken for it."""
    monkeypatch.setattr(files, "LEAST_BYTES", 1 << 20)
    for folder, mib in {"own": 2, "shared": 3}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_bytes(bytes(mib << 20))
    (tmp_path / "root").mkdir()
    # What is mapped stays in the page cache, whatever else a busy machine needs memory for.
    with (tmp_path / "own" / "weights").open("rb") as file:
        kept = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert kept[:] == bytes(2 << 20)
    hold = (
        "import mmap, os, sys, time; held = os.open(sys.argv[1] + '/shared/weights', 0); "
        f"{'m = mmap.mmap(held, 0, prot=1); os.close(held); ' if mapped else ''}"
        "print('up', flush=True); time.sleep(600)"
    )
    enter = f"{mount.format(tmp_path)} && exec {'chroot root ' if 'root' in mount else ''}" + '"$@"'
    server = ["unshare", "--mount", "sh", "-c", enter, "sh", *python(hold, str(tmp_path))]
    _, record = run(tmp_path, {"run": ["true"], "read": "wall", "server": server, "ready": "^up$"})
    assert record.status is Outcome.OK, record.reason
    (found,) = record.of_command.files
    assert found.bytes == found.cached_bytes == 2 << 20
    assert found.elsewhere and found.path.endswith("shared/weights")


@pytest.mark.needs("numactl")
def test_bound_command_is_proved_or_says_why_not(tmp_path, monkeypatch):
    # However long a busy machine takes until it has ended.
    monkeypatch.setattr(looks, "FIRST_S", 600.0)
    _, short = run(tmp_path, {"run": ["true"], "read": "wall"}, binding="numactl")
    assert short.certificate.verdict is PlacementVerdict.UNPROVED
    assert "before it could be looked at; numactl had bound it" in short.certificate.reasons[0].text
    monkeypatch.setattr(looks, "FIRST_S", 0.1)
    look = looks.Looks.at_pages

    def note(self: looks.Looks, *arguments: Any, **options: Any) -> None:
        look(self, *arguments, **options)
        if self.page_looks:
            (tmp_path / "seen").touch()

    # It ends once it was looked at, however late a busy machine looks.
    monkeypatch.setattr(looks.Looks, "at_pages", note)
    until_seen = python("import os, time\nwhile not os.path.exists('seen'): time.sleep(0.01)")
    _, long = run(tmp_path, {"run": until_seen, "read": "wall"}, binding="numactl", name="long")
    assert long.certificate.verdict is PlacementVerdict.PROVED, long.certificate.reasons
    assert long.command[0] == "numactl"
