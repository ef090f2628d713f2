import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.errors import StudyError
from bench.host import gpus as host_gpus
from bench.host.gpus import gpu_users, minor_of
from bench.records.base import convert
from bench.records.host import Nvml, NvmlGpu
from bench.records.where import Where, WhereVerdict
from bench.where.command import NoSuchProcess, Request, where

from .test_look import foreign

WAIT = "import sys; print('READY', flush=True); sys.stdin.read()"
NO_NVML = Nvml(error="NVML Shared Library Not Found")


def call(*arguments):
    return CliRunner().invoke(main, ["where", *map(str, arguments)])


def only_node():
    with open("/sys/devices/system/node/online") as file:
        return file.read().strip() == "0"


def test_ctrl_c_ends_a_watch_quietly(monkeypatch):
    def interrupted(_):
        # No signal: in the background of a shell these tests would ignore it.
        raise KeyboardInterrupt

    with foreign("children") as process:
        # In the middle of the watch.
        monkeypatch.setattr("bench.where.look.time.sleep", interrupted)
        watched = call(process.pid, "--watch", 3600)
        monkeypatch.undo()
    assert watched.exit_code == 130 and not watched.output.strip()


def test_tree_on_the_node_is_local():
    if not only_node():
        pytest.skip("several NUMA nodes: make test-numa looks at trees on these")
    with foreign("children") as process:
        shown, listed = call(process.pid, "--node", 0), call(process.pid, "--node", 0, "--quick", "--json")
    assert shown.exit_code == listed.exit_code == 0
    assert shown.output.splitlines()[0] == "no GPU, nearest: node 0 (--node)"
    assert shown.output.splitlines()[1].startswith("  local: no thread may leave node 0, 100 % of its memory is near")
    answer = convert(json.loads(listed.output), Where)
    assert answer.gpus[0].verdict is WhereVerdict.LOCAL and len(answer.gpus[0].processes) == 3
    assert answer.gpus[0].near.nodes == (0,) and answer.cost_ms > 0


def test_process_without_a_gpu_needs_a_node():
    with foreign("honest") as process:
        ended = call(process.pid)
    assert ended.exit_code == 4 and "name the nodes to compare with" in ended.output


def test_names_that_a_process_gives_itself_are_safe_to_print():
    program = """
import ctypes
ctypes.CDLL(None).prctl(15, b"\\x1b[2J) R 1 \\xff", 0, 0, 0)
print("READY", flush=True)
input()
"""
    # A title that a process sets is argv[0], arguments included.
    command = ["serve\x1b[2J --token=hunter2", "-S", "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, executable=sys.executable, **pipes) as process:
        assert process.stdout.readline() == "READY\n"
        shown, listed = call(process.pid).output, call(process.pid, "--json").output
        process.stdin.close()
    assert "\x1b" not in shown + listed and "hunter2" not in shown + listed
    assert r"\x1b[2J) R 1 \xff  serve\x1b[2J" in shown


@pytest.mark.needs_root
def test_process_of_a_container_has_its_id_there():
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-S", "-c", WAIT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "READY\n"
        answer, _ = where(Request(pids=(process.pid,)), NO_NVML)
        process.stdin.close()
    assert [place.pid_in_container for place in answer.gpus[0].processes] == [None, 1]


@pytest.mark.needs_root
@pytest.mark.needs("setpriv")
def test_hidden_process_does_not_exist():
    script = "import sys; from bench.cli import main; main(['where', sys.argv[1]])"
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", script]
    hide = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    with foreign("honest") as process:
        command = ["unshare", "--mount", "sh", "-c", hide, "sh", *other, str(process.pid)]
        ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 5 and "hides it (hidepid)" in ended.stderr, ended.stderr


def test_arguments_hold_secrets_and_are_not_shown():
    command = [sys.executable, "-c", WAIT, "--token=hunter2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "READY\n"
        outputs = call(process.pid, "--json").output + call(process.pid).output
        process.stdin.close()
    assert "hunter2" not in outputs and sys.executable in outputs


@pytest.mark.needs_root
@pytest.mark.needs("setpriv")
def test_another_user_sees_unseen_and_exit_code_4():
    script = "import sys; from bench.cli import main; main(['where', sys.argv[1], '--node', '0'])"
    with foreign("honest") as process:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", script]
        ended = subprocess.run([*command, str(process.pid)], capture_output=True, text=True)
    assert ended.returncode == 4, ended.stderr
    assert "unseen: policies and memory of some processes could not be observed" in ended.stdout
    assert "memory: Permission denied; run as root" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((1 << 30,), 5, "there is no such process"),
        ((0,), 2, "0 is not in the range"),
        (("name",), 2, "not a valid process id"),
        (("--all", 1), 2, "--all is every process"),
        ((1, "--node", 4000), 2, "there is no such NUMA node"),
        ((1, "--gpu", "GPU-nothing"), 2, "there is no such GPU"),
    ],
)
def test_refusals_have_their_exit_code(arguments, code, message):
    ended = call(*arguments)
    assert ended.exit_code == code and message in ended.output, ended.output


def test_host_without_a_gpu_asks_for_processes():
    with pytest.raises(StudyError, match="NVML Shared Library Not Found") as raised:
        where(Request(), NO_NVML)
    assert raised.value.exit_code == 2


def nvml(*processes):
    return Nvml(
        gpus=tuple(
            NvmlGpu(pci_bus_id=f"0000:{index}a:00.0", uuid=f"GPU-{index}", minor=1 - index, processes=pids)
            for index, pids in enumerate(processes)
        )
    )


def test_users_of_a_gpu_are_nvml_s_and_those_of_its_device_file(monkeypatch):
    files = {
        10: {"nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1"},
        11: {"nvidiactl", "nvidia-uvm", "nvidia0"},
        12: {"nvidiactl", "nvidia0"},  # a monitor
        13: set(),  # NVML names the process of the host that has this id there
        14: None,
    }
    monkeypatch.setattr(host_gpus, "device_files", files.get)
    assert gpu_users(nvml((10, 13), (14,)), files) == {10: (0,), 11: (1,), 14: (1,)}


def test_minor_number_comes_from_nvml_or_the_driver(tmp_path):
    folder = tmp_path / "proc/driver/nvidia/gpus/0000:0a:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t\t NVIDIA H200\nDevice Minor: \t 3\n")
    gpu = NvmlGpu(pci_bus_id="0000:0a:00.0")
    assert minor_of(gpu, tmp_path) == 3 and minor_of(gpu, tmp_path / "nothing") is None
    assert minor_of(NvmlGpu(pci_bus_id="0000:0a:00.0", minor=1), tmp_path) == 1


def test_idle_gpu_has_no_process():
    with pytest.raises(NoSuchProcess, match="no process uses a GPU"):
        where(Request(), nvml((), ()))


def test_processes_of_a_gpu_are_found_through_nvml(monkeypatch):
    with foreign("children") as process:
        monkeypatch.setattr(host_gpus, "device_files", lambda pid: {"nvidia-uvm"} if pid == process.pid else set())
        for named in ("1", "GPU-1"):
            answer, code = where(Request(gpus=(named,)), nvml((), (process.pid,)))
            (gpu,) = answer.gpus
            assert gpu.index == 1 and len(gpu.processes) == 3
            assert {place.gpus for place in gpu.processes} == {(1,)}
            assert code in (0, 3, 4)
        with pytest.raises(NoSuchProcess):
            where(Request(gpus=("0",)), nvml((), (process.pid,)))


def test_look_leaves_out_itself():
    answer, _ = where(Request(pids=(os.getppid(),)), NO_NVML)
    assert os.getpid() not in {place.pid for gpu in answer.gpus for place in gpu.processes}
