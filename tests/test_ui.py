"""`numastudy ui`: two real servers, stopped and started again with the tasks that luigid knew."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tasks.study_calls import BIN, free_port

TASK = {"worker": "a-test", "task_id": "Seen_1", "family": "Seen", "module": "tasks", "params": {}, "runnable": True}


@dataclass(frozen=True)
class Servers:
    process: subprocess.Popen[str]
    tasks: str
    outputs: str

    def call(self, method: str, **data: object) -> object:
        query = urllib.parse.urlencode({"data": json.dumps(data)}).encode()
        with urllib.request.urlopen(f"{self.tasks}/api/{method}", query, timeout=10) as answer:
            return json.load(answer)["response"]

    def names(self) -> set[str]:
        return set(self.call("task_list", status="PENDING", upstream_status=""))

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def command(folder: Path, port: int, outputs_port: int) -> list[str]:
    return [
        sys.executable, str(BIN / "numastudy"), "ui", "--state", str(folder / "state"), "--outputs",
        str(folder / "outputs"), "--port", str(port), "--outputs-port", str(outputs_port),
    ]  # fmt: skip


@contextmanager
def ui(folder: Path, ports: tuple[int, int]) -> Iterator[Servers]:
    process = subprocess.Popen(command(folder, *ports), cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        # The addresses are printed when the servers answer, not before.
        text = [process.stdout.readline() for _ in range(4)]
        assert f"http://127.0.0.1:{ports[0]}" in text[0] and f"http://127.0.0.1:{ports[1]}" in text[1]
        yield Servers(process, *(f"http://127.0.0.1:{port}" for port in ports))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_tasks_survive_a_restart(tmp_path: Path, ports: tuple[int, int], number: int) -> None:
    with ui(tmp_path, ports) as first:
        assert first.names() == set()
        first.call("add_task", **TASK)
        assert first.names() == {"Seen_1"}
        assert first.stop(number) == 0
    with ui(tmp_path, ports) as second:
        assert second.names() == {"Seen_1"}


def test_luigid_ends_with_a_killed_ui_and_keeps_its_tasks(tmp_path: Path, ports: tuple[int, int]) -> None:
    with ui(tmp_path, ports) as first:
        first.call("add_task", **TASK)
        first.stop(signal.SIGKILL)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", ports[0])):
                break
        time.sleep(0.1)
    with ui(tmp_path, ports) as second:
        assert second.names() == {"Seen_1"}


def test_growing_log_is_shown_as_text(tmp_path: Path, ports: tuple[int, int]) -> None:
    log = tmp_path / "outputs" / "quick_test" / "a_r1.stderr"
    log.parent.mkdir(parents=True)
    log.write_text("first line µs\n")
    with ui(tmp_path, ports) as servers:
        address = f"{servers.outputs}/quick_test/a_r1.stderr"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.read().decode() == "first line µs\n"
        log.write_text("first line µs\nsecond\n")
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.read().decode().endswith("second\n")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{servers.outputs}/../state/servers.log", timeout=10)


def test_only_files_below_the_outputs_are_served(tmp_path: Path, ports: tuple[int, int]) -> None:
    outputs = tmp_path / "outputs"
    (outputs / ".hidden").mkdir(parents=True)
    (outputs / ".hidden" / "key").write_text("secret")
    (tmp_path / "private").write_text("secret")
    (outputs / "link").symlink_to(tmp_path / "private")
    (outputs / "folder").symlink_to(tmp_path)
    (outputs / "loop").symlink_to(outputs / "loop")
    (outputs / "report.md").write_text("text")
    (outputs / "latest").symlink_to(outputs / "report.md")
    with ui(tmp_path, ports) as servers:
        for path in (".hidden/key", ".hidden/", "link", "folder/private", "folder/", "loop", "a%00b", "a" * 5000):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{servers.outputs}/{path}", timeout=10)
        for path in ("report.md", "latest"):
            with urllib.request.urlopen(f"{servers.outputs}/{path}", timeout=10) as answer:
                assert answer.read() == b"text"


@pytest.mark.parametrize(("host", "status"), [("localhost:8083", 200), ("127.0.0.1", 200), ("evil.example", 403)])
def test_only_requests_to_this_host_are_answered(
    tmp_path: Path, ports: tuple[int, int], host: str, status: int
) -> None:
    with ui(tmp_path, ports):
        connection = http.client.HTTPConnection("127.0.0.1", ports[1], timeout=10)
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


def test_servers_listen_on_loopback_only(tmp_path: Path, ports: tuple[int, int]) -> None:
    with ui(tmp_path, ports):
        listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        for port in ports:
            found = [line.split()[1] for line in listening.splitlines() if f":{port:04X} " in line and " 0A " in line]
            assert found == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize("which", [0, 1])
def test_taken_port_is_named(tmp_path: Path, ports: tuple[int, int], which: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", ports[which]))
        other.listen()
        done = subprocess.run(command(tmp_path, *ports), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"port {ports[which]} cannot be used: Address already in use" in done.stderr
    assert ("--port", "--outputs-port")[which] in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "state") == []


def test_luigid_refuses_requests_of_pages_of_other_sites(tmp_path: Path, ports: tuple[int, int]) -> None:
    def status(port: int, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = urllib.parse.urlencode({"data": json.dumps(TASK)})
        connection.request("POST", "/api/add_task", body, headers)
        return connection.getresponse().status

    with ui(tmp_path, ports) as servers:
        own = f"127.0.0.1:{ports[0]}"
        assert status(ports[0], Host="evil.example") == 403
        assert status(ports[0], Origin="http://evil.example") == 403
        assert status(ports[0], Origin=f"http://127.0.0.1:{ports[1]}") == 403
        assert status(ports[0], Origin="null") == 403
        assert status(ports[0], Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
        assert servers.names() == set()
        assert status(ports[0], Host=own, Origin=f"http://{own}", Sec_Fetch_Site="same-origin") == 200
        assert servers.names() == {"Seen_1"}


def test_listing_of_a_folder_has_no_hidden_names(tmp_path: Path, ports: tuple[int, int]) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for name in (".luigi.lock", "javascript:alert(1)", "<b>", "report.html"):
        (outputs / name).touch()
    (outputs / "folder").mkdir()
    with ui(tmp_path, ports) as servers:
        page = urllib.request.urlopen(f"{servers.outputs}/", timeout=10).read().decode()
    assert "luigi.lock" not in page and "<b>" not in page
    assert 'href="./javascript%3Aalert%281%29"' in page
    assert 'href="./report.html"' in page and 'href="./folder/"' in page
