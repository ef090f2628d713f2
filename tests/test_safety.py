"""Hostile files, names and streams, through the commands. Hostile histories: tests/history/test_hostile.py."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.host.made_hosts import host_root

BIN = Path(sys.executable).parent
TRACES = Path(__file__).parent / "fixtures/traces"
TRACE = TRACES / "h200_vit32x6x512_eager.sqlite.gz"
STUDY = "{name: NAME, gpu_ids: [0], numa_nodes: [0], models: [vit0x0x0], device: cpu, binding: none, num_samples: 20}"
ESCAPE = "\x1b]0;owned\x07"


def call(folder: Path, *words: object, timeout: float = 60, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "numastudy"), *map(str, words)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder} | options
    return subprocess.run(command, timeout=timeout, check=False, **options)


def luigi(folder: Path, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "luigi"), "--local-scheduler", "--module", "tasks", *map(str, words)]
    environment = os.environ | {"NUMASTUDY_LOCK_DIR": str(folder)}
    options = {"capture_output": True, "text": True, "cwd": folder, "env": environment} | options
    return subprocess.run(command, timeout=240, check=False, **options)


def study(folder: Path, name: str = "tiny", file: str = "study.yaml") -> Path:
    path = folder / file
    path.write_text(STUDY.replace("NAME", name))
    return path


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


# Input files


@pytest.mark.parametrize("kind", ["fifo", "zero"])
@pytest.mark.parametrize(
    "command", ["plan FILE", "analyze FILE", "redact FILE -o copy.sqlite", "compare FILE FILE", "report FOLDER",
                "history --output-dir FOLDER", "history --output-dir FOLDER --page", "status FOLDER"]
)  # fmt: skip
def test_file_that_never_ends_is_refused(tmp_path: Path, command: str, kind: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    names = ("study.yaml", "grid.json", "results.json", "history.db", "cluster.json", "topology.json")
    for path in (tmp_path / "input", *(folder / name for name in names)):
        os.mkfifo(path) if kind == "fifo" else path.symlink_to("/dev/zero")
    words = [word.replace("FILE", str(tmp_path / "input")).replace("FOLDER", str(folder)) for word in command.split()]
    refused(call(tmp_path, *words, timeout=240))


def test_study_that_never_ends_is_refused_by_luigi(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "study.yaml")
    refused(luigi(tmp_path, "Study", "--config-file", "study.yaml"), "not a regular file")
    refused(luigi(tmp_path, "NightlySweep", "--config-file", "study.yaml"), "not a regular file")


@pytest.mark.parametrize("digits", ["9" * 900_000, "0x" + "f" * 900_000, "1" + ":59" * 300_000])
def test_huge_integer_is_refused(tmp_path: Path, digits: str) -> None:
    path = study(tmp_path)
    path.write_text(path.read_text().replace("num_samples: 20", f"num_samples: {digits}"))
    done = call(tmp_path, "plan", path)
    refused(done, "study.yaml:1")
    assert len(done.stderr) < 2000


NODE = "sys/devices/system/node/node0"


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (f"{NODE}/cpulist", os.mkfifo, "neither a file nor a folder"),
        (f"{NODE}/meminfo", "/dev/zero", "a link that leads out"),
        ("proc/cpuinfo", "../../private", "a link that leads out"),
        ("proc/self", "/proc/self", "a link that leads out"),
        ("nvml.json", os.mkfifo, "neither a file nor a folder"),
        (f"{NODE}/cpulist", b"0-999999999999999", "a value that no kernel writes"),
        (f"{NODE}/distance", b"near", "a value that no kernel writes"),
        ("proc/sys/kernel/perf_event_paranoid", b"x", "a value that no kernel writes"),
        ("proc/self/cgroup", b"none", "a value that no kernel writes"),
        ("nvml.json", b'{"gpus": [{"pci_bus_id": "../../../../private"}]}', "pci_bus_id"),
        (f"{NODE}/meminfo", bytes(80 << 20), ""),
    ],
)  # fmt: skip
def test_hostile_recorded_host_is_refused(tmp_path: Path, file: str, content: object, words: str) -> None:
    root = Path(shutil.copytree(host_root("two_sockets"), tmp_path / "host"))
    (tmp_path / "private").write_text("a secret")
    path = root / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.symlink_to(content)
    else:
        content(path)
    done = call(tmp_path, "doctor", "--root", root, timeout=240)
    assert "secret" not in done.stdout + done.stderr and "Traceback" not in done.stderr
    if words:
        refused(done, words)
    if file.endswith("cpulist"):
        refused(call(tmp_path, "plan", "QuickTest", "--root", root, timeout=240), words)


# Names


@pytest.mark.parametrize("name", ["history.db", "history.db-wal", "index.html", "nightly", "noise_floor.json"])
def test_study_named_after_a_file_of_the_outputs_is_refused(tmp_path: Path, name: str) -> None:
    path = study(tmp_path, name)
    refused(call(tmp_path, "plan", path), name, "output directory")
    refused(luigi(tmp_path, "Study", "--config-file", path), name, "output directory")
    assert not (tmp_path / "outputs").exists()


def test_long_run_directory_is_refused_at_the_start_with_the_limit(tmp_path: Path) -> None:
    path = study(tmp_path)
    deep = tmp_path / "/".join(["d" * 90] * 4)
    refused(call(tmp_path, "plan", path, "--output-dir", deep), "bytes", "it may have", "shorter")
    refused(luigi(tmp_path, "Study", "--config-file", path, "--output-dir", deep), "bytes", "it may have")
    assert not [*tmp_path.rglob("study.yaml.*"), *tmp_path.rglob("runs")]


def test_escape_sequences_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = study(tmp_path, f'"{ascii(ESCAPE)[1:-1]}"')
    for done in (
        call(tmp_path, "plan", path),
        call(tmp_path, "plan", f"no{ESCAPE}.yaml"),
        call(tmp_path, "analyze", f"no{ESCAPE}.sqlite"),
        luigi(tmp_path, "Study", "--config-file", path),
        luigi(tmp_path, "Study", "--config-file", f"no{ESCAPE}.yaml"),
        luigi(tmp_path, f"No{ESCAPE}Study"),
    ):
        refused(done)
        assert "owned" in done.stderr
        assert "\x1b" not in done.stderr + done.stdout


def test_name_of_a_trace_does_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    path = tmp_path / f"trace{ESCAPE}.sqlite.gz"
    path.write_bytes(TRACE.read_bytes())
    done = call(tmp_path, "analyze", path)
    assert done.returncode == 0
    assert "owned" in done.stdout
    assert "\x1b" not in done.stdout


# Streams


@pytest.mark.slow
def test_study_is_measured_when_stdout_is_closed_or_full(tmp_path: Path) -> None:
    study(tmp_path)
    words = (
        f"{BIN / 'luigi'} --local-scheduler --module tasks Study --config-file study.yaml --profiler torch --repeats 1"
    )
    environment = os.environ | {"NUMASTUDY_LOCK_DIR": str(tmp_path), "PYTHONIOENCODING": "ascii"}

    def shell(redirection: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f"exec {words} {redirection}"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    closed = shell(">&-")
    assert closed.returncode == 0, closed.stderr
    assert len([*tmp_path.glob("outputs/tiny/*/*/report.html")]) == 1
    full = shell(">/dev/full")
    assert full.returncode == 0
    assert "report: " in full.stderr and "Traceback" not in full.stderr
    plain = shell("")
    assert plain.returncode == 0
    assert "report: " in plain.stdout and "Traceback" not in plain.stderr


@pytest.mark.parametrize("command", ["plan QuickTest --binding none", f"analyze {TRACE}", "schema results.json"])
def test_full_stdout_is_one_error(tmp_path: Path, command: str) -> None:
    with open("/dev/full", "w") as full:
        refused(call(tmp_path, *command.split(), stdout=full), "No space left on device", "standard output")


def test_removed_current_folder_is_named(tmp_path: Path) -> None:
    command = f"mkdir gone && cd gone && rmdir ../gone && exec {BIN / 'numastudy'} list"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    refused(done, "No such file or directory", "the current folder")


def test_full_stderr_keeps_the_exit_code(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        assert call(tmp_path, "status", "nothing", stderr=full).returncode == 2
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    assert call(tmp_path, "status", "nothing", stderr=writer).returncode == 2
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("command", ["plan QuickTest --binding none", f"analyze {TRACE}", "history --help"])
def test_ascii_stdout_is_no_traceback(tmp_path: Path, command: str) -> None:
    done = call(tmp_path, *command.split(), env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


# What a killed command leaves


@pytest.mark.parametrize("command", ["analyze", "redact"])
def test_next_call_removes_what_a_killed_one_left(tmp_path: Path, command: str) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    # Large enough to be in the middle of unpacking when its first bytes are seen.
    large = tmp_path / "large.sqlite.gz"
    with gzip.open(TRACE) as packed, gzip.open(large, "wb", compresslevel=1) as copy:
        content = packed.read()
        copy.write(content)
        for _ in range(40):
            copy.write(bytes(1 << 20))
    output = ["-o", str(tmp_path / "copy.sqlite")] if command == "redact" else []
    killed = 0
    while killed < 3:
        process = subprocess.Popen(
            [str(BIN / "numastudy"), command, str(large), *output], env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not any(temporary.rglob("*.sqlite")) and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        # On a busy machine it may have ended by itself, or have cleaned up before it was killed.
        died, left = process.wait() == -signal.SIGKILL, len([*temporary.iterdir()])
        assert left <= died
        killed += left
    done = call(tmp_path, command, TRACE, *output, env=environment)
    assert done.returncode == 0, done.stderr
    assert [*temporary.iterdir()] == []
    assert not [*tmp_path.glob(".*.part")]


# Options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--nodes", ","), ("--nodes", "n1 n2"), ("--scheduler", "a b:8082"), ("--scheduler", "host:0"),
        ("--scheduler", "host:99999"), ("--scheduler", "host:²"), ("--sbatch", "nodes=2"), ("--sbatch", "nodelist=n9"),
        ("--sbatch", "array=1-4"), ("--sbatch", "oversubscribe"), ("--sbatch", "no-requeue"), ("--sbatch", "ntasks=8"),
        ("--template", "/dev/zero"),
    ],
)  # fmt: skip
def test_impossible_option_of_submit_is_refused(tmp_path: Path, option: str, value: str) -> None:
    hosts = [] if option == "--nodes" else ["--nodes", "n1"]
    refused(call(tmp_path, "submit", "QuickTest", *hosts, option, value, "--dry-run", timeout=240), option.strip("-"))


@pytest.mark.parametrize("port", ["0", "99999", "-1"])
@pytest.mark.parametrize("option", ["--port", "--outputs-port"])
def test_impossible_port_is_refused(tmp_path: Path, option: str, port: str) -> None:
    refused(call(tmp_path, "ui", "--state", tmp_path / "state", option, port, timeout=240), option)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--scheduler-port", "0"),
        ("--scheduler-port", "99999"),
        ("--scheduler-host", "a b"),
        ("--scheduler-url", "http://a b/"),
    ],
)
def test_impossible_scheduler_is_refused_by_luigi(tmp_path: Path, option: str, value: str) -> None:
    command = [str(BIN / "luigi"), option, value, "--module", "tasks", "QuickTest", "--binding", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    refused(done, "scheduler")


# Faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("removed", "moment"),
    [
        ("outputs", "runs/*_r1.json"),
        ("outputs", "logs/*_traced.stderr"),
        ("outputs/tiny/*/*", "cells/*.json"),
        ("outputs/tiny/*/*", "runs/*_traced.json"),
    ],
)
def test_outputs_removed_in_mid_study_are_reported_and_not_made_again(
    tmp_path: Path, removed: str, moment: str
) -> None:
    """moment: of the first run directory, the file that appears just before."""
    study(tmp_path)
    command = [str(BIN / "luigi"), "--local-scheduler", "--module", "tasks", "Study", "--config-file", "study.yaml"]
    command += ["--profiler", "torch", "--repeats", "2"]
    environment = os.environ | {"NUMASTUDY_LOCK_DIR": str(tmp_path)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not [*tmp_path.glob(f"outputs/tiny/*/*/{moment}")]:
        assert process.poll() is None
        time.sleep(0.01)
    (folder,) = tmp_path.glob(removed)
    folder.rename(tmp_path / "away")
    out, err = process.communicate(timeout=600)
    assert process.returncode not in (0, 1)
    assert "No such file or directory" in out + err or "removed" in out + err
    assert "Traceback" not in out + err
    assert not folder.exists()


def test_pool_larger_than_the_memory_of_the_host_is_refused(tmp_path: Path) -> None:
    path = study(tmp_path)
    words = ("--memory-size-mb", "1048576")
    refused(call(tmp_path, "plan", path, *words), "this host has", "memory_size_mb")
    refused(luigi(tmp_path, "Study", "--config-file", path, *words), "this host has", "memory_size_mb")
    assert not [*tmp_path.rglob("runs")]


# Dates of nights


def test_night_of_the_future_is_refused(tmp_path: Path) -> None:
    refused(luigi(tmp_path, "NightlySweep", "--date", "2999-01-01"), "is in the future", "--date")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_night_of_the_past_is_explained(tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text("studies: [{study: nothing.yaml}]")
    done = luigi(tmp_path, "NightlySweep", "--date", "2020-01-01", "--config-file", "nightly.yaml")
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    (tmp_path / "nightly.yaml").write_text("studies: [{study: study.yaml, num_samples: 20}]")
    study(tmp_path)
    done = luigi(tmp_path, "NightlySweep", "--date", "2020-01-01", "--config-file", "nightly.yaml")
    assert "the night 2020-01-01 is in the past: it is measured now, stored under that date" in done.stderr
