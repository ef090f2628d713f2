"""`make ui`: luigi's scheduler with its page, and the output directory over http. Both on loopback only."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.errors import StudyError

ADDRESS = "127.0.0.1"


def serve(state: Path, outputs: Path, config: Path, port: int = 8082, outputs_port: int = 8083) -> int:
    """Run both servers until SIGINT or SIGTERM, or until one of them ends. Return the exit code.

    luigid saves its state when it is stopped cleanly, so it is stopped cleanly here.
    """
    state.mkdir(parents=True, exist_ok=True)
    outputs.mkdir(parents=True, exist_ok=True)
    luigid = Path(sys.executable).with_name("luigid")
    if not luigid.exists():
        raise StudyError("luigid is not installed beside this python", str(luigid), "make install")
    commands = [
        [str(luigid), "--address", ADDRESS, "--port", str(port), "--state-path", str(state / "luigi-state.pickle")],
        [sys.executable, "-m", "http.server", str(outputs_port), "--bind", ADDRESS, "--directory", str(outputs)],
    ]
    environment = os.environ | {"LUIGI_CONFIG_PATH": str(config)}
    with (state / "servers.log").open("ab") as log:
        servers = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            for command in commands
        ]
    print(f"tasks:   http://{ADDRESS}:{port}\noutputs: http://{ADDRESS}:{outputs_port}\nCtrl-C ends both", flush=True)
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ended.append(number))
    try:
        while not ended and all(server.poll() is None for server in servers):
            time.sleep(0.2)
    finally:
        failed = next((server for server in servers if server.poll() is not None), None)
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(20)
    if failed and not ended:
        raise StudyError(
            f"a server ended with exit code {failed.returncode}: {' '.join(map(str, failed.args))}",
            str(state / "servers.log"),
            "is its port in use already? The log says more",
        )
    return 0
