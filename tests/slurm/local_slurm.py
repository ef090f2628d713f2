"""A real Slurm on this machine: munged, slurmctld and a slurmd for each node, on loopback, in a folder of its own.

Needs root and Debian's slurmctld, slurmd, slurm-client, slurm-wlm-basic-plugins and munge (.ci/install-slurm).
All nodes are this one machine, each with all of its CPUs: what is tried here is who runs what and when, not speed.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.ports import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")

_CONF = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldParameters=idle_on_node_suspend
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
TaskProlog={folder}/task_prolog
Prolog={folder}/prolog
SelectType=select/cons_tres
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout={slurmd_timeout_s}
InactiveLimit=0
KillWait=10
MinJobAge=3600
Waittime=0
JobRequeue=1
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=UNLIMITED State=UP OverSubscribe=NO
"""

# The nodes share this machine's lock folder, which real hosts do not.
_TASK_PROLOG = """#!/bin/sh
mkdir -p {folder}/lock-$SLURMD_NODENAME
echo "export NUMASTUDY_LOCK_DIR={folder}/lock-$SLURMD_NODENAME"
"""
_PROLOG = """#!/bin/sh
[ ! -e {} ]
"""


def missing_programs() -> list[str]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


class LocalSlurm:
    """nodes: name -> feature; those in `absent` are configured and never started."""

    def __init__(self, folder: Path, nodes: dict[str, str], absent: tuple[str, ...] = (), slurmd_timeout_s: int = 20):
        self.folder, self.nodes, self.absent = folder, nodes, absent
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        cpus, memory_mb = os.cpu_count(), int(psutil.virtual_memory().total / 2**20 * 0.9)
        lines = [
            f"NodeName={name} NodeHostname={os.uname().nodename} NodeAddr=127.0.0.1 Port={free_port()} "
            f"CPUs={cpus} RealMemory={memory_mb} Feature={feature} State=UNKNOWN"
            for name, feature in nodes.items()
        ]
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        (folder / "state").mkdir()
        self.conf = folder / "slurm.conf"
        self.conf.write_text(
            _CONF.format(
                host=os.uname().nodename,
                port=free_port(),
                folder=folder,
                slurmd_timeout_s=slurmd_timeout_s,
                nodes="\n".join(lines),
                names=",".join(nodes),
            )
        )
        # While this file is there no job starts: slurmd drains the node, and Slurm holds the job.
        self.no_start = folder / "no_start"
        for name, text in (
            ("task_prolog", _TASK_PROLOG.format(folder=folder)),
            ("prolog", _PROLOG.format(self.no_start)),
        ):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        return os.environ | {"SLURM_CONF": str(self.conf), "PATH": path}

    def start(self) -> None:
        self._start_munged()
        self.start_slurmctld()
        for name in self.nodes:
            if name not in self.absent:
                self.start_slurmd(name)
        wait_until(lambda: all(self.node_state(n) == "IDLE" for n in self.nodes if n not in self.absent), "idle nodes")

    def _start_munged(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        user = pwd.getpwnam("munge")
        home = self.folder / "munge"
        home.mkdir(mode=0o700)
        for path in (key, home):
            os.chown(path, user.pw_uid, user.pw_gid)
        command = [
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
            f"--pid-file={home}/pid", f"--log-file={home}/log", f"--seed-file={home}/seed",
        ]  # fmt: skip
        # The socket's folder must be munge's own or root's; it is root's.
        os.chown(key, 0, 0)
        os.chown(home, 0, 0)
        self._spawn("munged", command)
        wait_until(lambda: (self.folder / "munge.socket").exists(), "munged")

    def start_slurmctld(self) -> None:
        self._spawn("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)])
        wait_until(lambda: self.call("scontrol", "ping").returncode == 0, "slurmctld")

    def start_slurmd(self, node: str) -> None:
        self._spawn(node, ["slurmd", "-D", "-N", node, "-f", str(self.conf)])

    def kill(self, name: str) -> None:
        """SIGKILL to one daemon."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def power_off(self, node: str) -> None:
        """As if the node lost power: its slurmd and all processes of its jobs are killed, by their ids."""
        processes = self.job_processes(node)
        self.kill(node)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=240)

    def job_processes(self, node: str) -> list[psutil.Process]:
        """Everything that slurmstepd runs for this node: its children name the node, and it is their parent."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if environment.get("SLURMD_NODENAME") == node and environment.get("SLURM_CONF") == str(self.conf):
                    parent = process.parent()
                    if parent and "slurmstepd" in parent.name():
                        found[parent.pid] = parent
                    for each in (process, *process.children(recursive=True)):
                        found[each.pid] = each
        return list(found.values())

    def call(self, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=timeout_s)

    def node_state(self, node: str) -> str:
        output = self.call("sinfo", "-h", "-N", "-n", node, "-o", "%T").stdout.split()
        return output[0].upper() if output else ""

    def job(self, job_id: str) -> dict[str, str]:
        line = self.call("scontrol", "show", "job", "-o", job_id).stdout
        return dict(word.split("=", 1) for word in line.split() if "=" in word)

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def stop(self) -> None:
        self.call("scancel", "-u", "root")
        for node in self.nodes:
            for process in self.job_processes(node):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        for process in reversed(list(self._processes.values())):
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def local_slurm(folder: Path, nodes: dict[str, str], **options: object) -> Iterator[LocalSlurm]:
    slurm = LocalSlurm(folder, nodes, **options)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 600, interval_s: float = 0.2) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(interval_s)
