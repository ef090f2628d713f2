"""Power loss: what was named is on the disk. The disk is an ext4 of its own; a copy of its device, taken while it is
mounted and without a sync, is what a machine finds after the power came back."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bench.storage import whole_file, write_json
from tests.needs import require
from tests.reliability.killing import (
    CHECKOUT,
    ApartCalls,
    look_at_files,
    look_at_the_whole,
    recorded_runs,
    records_below,
    wait_until,
)
from tests.reliability.stub import behave, replay

needs_root = pytest.mark.needs_root
DISK_BYTES = 48 << 20


@contextmanager
def mounted(device: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(device), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def new_disk(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True)
    return path


WRITER = """
import sys
from pathlib import Path
from bench.storage import write_json
folder = Path(sys.argv[1])
for number in range(100_000):
    # Ever the same name, and a new one in a new folder.
    write_json(folder / "record.json", {"number": number, "filler": "x" * (number * 37 % 20_000)})
    write_json(folder / f"{number % 50}" / "record.json", {"number": number})
    print(number, flush=True)
"""


@needs_root
def test_acknowledged_writes_survive_20_power_losses(tmp_path: Path) -> None:
    seed = 20261122
    print(f"seed {seed}")
    moments = random.Random(seed)
    device = new_disk(tmp_path / "device")
    with mounted(device, tmp_path / "disk") as disk:
        command = [sys.executable, "-c", WRITER, str(disk)]
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            for loss in range(20):
                for _ in range(moments.randint(1, 12)):
                    said = int(writer.stdout.readline())
                # A power loss is one moment; the copy takes longer.
                time.sleep(moments.uniform(0.0, 0.02))
                writer.send_signal(signal.SIGSTOP)
                # Not before its last write to the disk is over.
                assert wait_until(lambda: psutil.Process(writer.pid).status() == psutil.STATUS_STOPPED)
                time.sleep(0.05)
                after = tmp_path / "after"
                shutil.copyfile(device, after)
                writer.send_signal(signal.SIGCONT)
                with mounted(after, tmp_path / "again") as again:
                    found = json.loads((again / "record.json").read_text())
                    assert found["number"] >= said, f"power loss {loss}: {said} was said to be written"
                    assert json.loads((again / f"{said % 50}" / "record.json").read_text())["number"] >= said
            writer.kill()


@needs_root
@pytest.mark.timeout(3000)
def test_a_study_resumes_after_a_power_loss(tmp_path: Path, recorded: Path) -> None:
    calls = ApartCalls(tmp_path / "work", ["--local-scheduler"])
    replay(calls, recorded)
    calls.study["repeats"] = 3
    calls.write()
    slow = behave(calls, "import time; time.sleep(0.5)")
    outputs = calls.folder / "outputs"
    device, after = new_disk(tmp_path / "device"), tmp_path / "after"
    with mounted(device, outputs):
        luigi = calls.start()
        # The terminal says that a run has ended after its record was written.
        assert wait_until(lambda: recorded_runs(outputs) >= 3)
        kept = {path.relative_to(outputs): path.read_bytes() for path in records_below(outputs)}
        newest = max(kept, key=lambda path: (outputs / path).stat().st_mtime_ns)
        luigi.kill()
        luigi.communicate(timeout=600)
        shutil.copyfile(device, after)
    slow.unlink()
    with mounted(after, outputs):
        for path, content in kept.items():
            # Of the newest the name may have been seen before it was on the disk.
            assert path == newest or (outputs / path).read_bytes() == content
        look_at_files(calls.run_directory())
        done = calls.run()
        assert done.returncode == 0, done.stdout + done.stderr
        look_at_the_whole(calls)


def test_content_and_name_are_synced_in_this_order(tmp_path: Path) -> None:
    require("strace")
    program = f"from bench.storage import write_json; write_json({str(tmp_path / 'new' / 'r.json')!r}, 1)"
    log = tmp_path / "log"
    calls = "trace=openat,mkdir,fsync,rename,renameat,renameat2"
    done = subprocess.run(
        ["strace", "-f", "-y", "-e", calls, "-o", str(log), sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True,
    )  # fmt: skip
    if "Operation not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    seen = [
        re.sub(r"\.r\.json\.[\w.-]+\.part", "PART", line.partition(" ")[2].strip())
        for line in log.read_text().splitlines()
        if "fsync" in line or ("rename" in line and "PART" in re.sub(r"\.r\.json\.[\w.-]+\.part", "PART", line))
    ]
    assert [line.partition("(")[0] for line in seen] == ["fsync", "rename", "fsync"], seen
    assert "/new/PART>" in seen[0] and '/new/r.json"' in seen[1] and seen[2].endswith("/new>) = 0"), seen


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_step_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A stand-in for the kernel's call that fails."""
    path = tmp_path / "r.json"
    write_json(path, {"old": True})

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    from bench.errors import StudyError

    with pytest.raises(StudyError, match="Input/output error"), whole_file(path) as temporary:
        temporary.write_text("new")
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"old": True}
    assert [each.name for each in tmp_path.iterdir()] == ["r.json"]
