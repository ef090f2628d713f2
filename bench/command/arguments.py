"""What a command is started with: its arguments with the tokens replaced, its environment, its CPUs, its port."""

import glob
import itertools
import os
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.host.topology import cpus_to_bind
from bench.records.command import Command
from bench.records.host import Topology
from bench.records.study import Cell, Slot
from bench.run.child import ALLOWED_VARIABLES
from bench.storage import open_regular
from bench.study.command import matches

_MOST_EVICTED = 10_000


@dataclass(frozen=True)
class Place:
    """What is new in each start: a free port of this host, the file of the result, an empty folder."""

    port: int
    result: Path
    scratch: Path


def replacements(cell: Cell, slot: Slot, place: Place, host: Topology) -> dict[str, str]:
    """By token. Nothing else between braces is replaced: arguments may hold JSON."""
    node = host.node(cell.cpu_node)
    return {
        "{port}": str(place.port),
        "{result}": str(place.result),
        "{scratch}": str(place.scratch),
        "{gpu}": str(cell.gpu),
        "{gpu_uuid}": cell.gpu_uuid or "",
        "{cpu_node}": str(cell.cpu_node),
        "{mem_node}": str(cell.mem_node),
        "{cpus}": cpus_to_bind(Path("/"), cell.cpu_node) or (node.allowed_cpus if node else ""),
        "{repeat}": str(slot.repeat),
        "{seed}": str(cell.seed),
    }


def replaced(text: str, tokens: Mapping[str, str]) -> str:
    for token, value in tokens.items():
        text = text.replace(token, value)
    return text


def environment(cell: Cell, command: Command, tokens: Mapping[str, str], caller: Mapping[str, str]) -> dict[str, str]:
    """Nothing that would change a user's program, as the pipeline's own environment does."""
    allowed = ALLOWED_VARIABLES | ({"CUDA_VISIBLE_DEVICES"} if command.gpus == "all" else set())
    values = {key: value for key, value in caller.items() if key in allowed or matches(key, command.pass_env)}
    values |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if command.gpus == "one" and cell.gpu_uuid:
        values["CUDA_VISIBLE_DEVICES"] = cell.gpu_uuid
    values |= {f"NUMASTUDY_{key.upper()}": tokens[f"{{{key}}}"] for key in ("result", "cpu_node", "mem_node", "repeat")}
    return values | {key: replaced(value, tokens) for key, value in command.env.items()}


def secrets(command: Command, caller: Mapping[str, str]) -> dict[str, str]:
    """The variables that are passed and whose values are never stored."""
    return {key: value for key, value in caller.items() if matches(key, command.pass_env) and len(value) > 3}


def client_cpus(command: Command, cell: Cell, host: Topology, allowed: set[int]) -> set[int]:
    """Of the client beside a server. Outside the server's node it shares CPUs with the server in no placement."""
    node = host.node(cell.cpu_node)
    own = allowed & set(node.cpu_ids if node else ())
    chosen = {"other": allowed - own, "same": own, "all": allowed}[command.client_cpus]
    return chosen or allowed


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def evicted_names(command: Command) -> list[str]:
    """What the patterns of `evict` match, of bounded number."""
    found = (glob.iglob(os.path.join(command.cwd, pattern), recursive=True) for pattern in command.evict)
    return [*itertools.islice(itertools.chain.from_iterable(found), _MOST_EVICTED)]


def evict(command: Command) -> int:
    """Remove files from the page cache; return how many. What is dirty or mapped stays, as the kernel decides."""
    done = 0
    for name in evicted_names(command):
        with suppress(OSError), open_regular(name) as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            done += 1
    return done
