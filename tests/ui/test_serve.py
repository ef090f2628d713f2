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

from bench.host.connections import is_own_user, user_of_client
from tests.needs import needs
from tests.ports import free_port
from tests.tasks.study_calls import BIN

TASK = {"worker": "a-test", "task_id": "Seen_1", "family": "Seen", "module": "tasks", "params": {}, "runnable": True}


@dataclass(frozen=True)
class Servers:
    process: subprocess.Popen[str]
    tasks: str
    outputs: str

    def call(self, method: str, **data: object) -> object:
        query = urllib.parse.urlencode({"data": json.dumps(data)}).encode()
        with urllib.request.urlopen(f"{self.tasks}/api/{method}", query, timeout=240) as answer:
            return json.load(answer)["response"]

    def names(self) -> set[str]:
        return set(self.call("task_list", status="PENDING", upstream_status=""))

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(240)


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


def get(port: int, path: str, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


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
    for _ in range(1200):
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
        with urllib.request.urlopen(address, timeout=240) as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.read().decode() == "first line µs\n"
        log.write_text("first line µs\nsecond\n")
        with urllib.request.urlopen(address, timeout=240) as answer:
            assert answer.read().decode().endswith("second\n")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{servers.outputs}/../state/servers.log", timeout=240)


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
                urllib.request.urlopen(f"{servers.outputs}/{path}", timeout=240)
        for path in ("report.md", "latest"):
            with urllib.request.urlopen(f"{servers.outputs}/{path}", timeout=240) as answer:
                assert answer.read() == b"text"


@pytest.mark.parametrize(("host", "status"), [("localhost:8083", 200), ("127.0.0.1", 200), ("evil.example", 403)])
def test_only_requests_to_this_host_are_answered(
    tmp_path: Path, ports: tuple[int, int], host: str, status: int
) -> None:
    with ui(tmp_path, ports):
        connection = http.client.HTTPConnection("127.0.0.1", ports[1], timeout=240)
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
        done = subprocess.run(command(tmp_path, *ports), cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert f"port {ports[which]} cannot be used: Address already in use" in done.stderr
    assert ("--port", "--outputs-port")[which] in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "state") == []


def test_luigid_refuses_requests_of_pages_of_other_sites(tmp_path: Path, ports: tuple[int, int]) -> None:
    def status(port: int, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
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
        # A GET changes the state too: by a link on a page of another site or of another port, or by an old browser.
        add = "/api/add_task?" + urllib.parse.urlencode({"data": json.dumps(TASK)})
        old_browser = {"User-Agent": "Mozilla/5.0"}
        for headers in (
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
            {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
            old_browser,
        ):
            assert get(ports[0], add, headers)[0] == 403
        assert servers.names() == set()
        tasks = "/api/task_list?" + urllib.parse.urlencode({"data": json.dumps({"status": "", "upstream_status": ""})})
        assert get(ports[0], tasks, old_browser | {"X-Requested-With": "XMLHttpRequest"})[0] == 200
        assert get(ports[0], "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})[0] == 302
        assert status(ports[0], Host=own, Origin=f"http://{own}", Sec_Fetch_Site="same-origin") == 200
        assert servers.names() == {"Seen_1"}


def test_listing_of_a_folder_has_no_hidden_names(tmp_path: Path, ports: tuple[int, int]) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    for name in (".luigi.lock", "javascript:alert(1)", "<b>", "report.html"):
        (outputs / name).touch()
    (outputs / "folder").mkdir()
    with ui(tmp_path, ports) as servers:
        page = urllib.request.urlopen(f"{servers.outputs}/", timeout=240).read().decode()
    assert "luigi.lock" not in page and "<b>" not in page
    assert 'href="./javascript%3Aalert%281%29"' in page
    assert 'href="./report.html"' in page and 'href="./folder/"' in page


# Other users

NOBODY = 65534
# Prints the status and the content of each address; a page that is not sent has none.
GET = """
import sys, urllib.error, urllib.request
for address in sys.argv[1:]:
    try:
        with urllib.request.urlopen(address, timeout=240) as answer:
            print(answer.status, answer.read().decode().replace(chr(10), " "))
    except urllib.error.HTTPError as error:
        print(error.code)
"""


def get_as(uid: int, *addresses: str) -> list[str]:
    """As that user; root without a capability is one who owns nothing here."""
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-IS", "-c", GET]
    done = subprocess.run([*command, *addresses], capture_output=True, text=True, timeout=240, check=True)
    return done.stdout.splitlines()


@pytest.mark.needs_root
@needs("setpriv")
def test_other_users_get_what_everybody_may_read(public_path: Path, ports: tuple[int, int]) -> None:
    outputs = public_path / "outputs"
    for name in ("open/report.html", "private/report.html", "index/index.html", "one/secret"):
        (outputs / name).parent.mkdir(parents=True, exist_ok=True)
        (outputs / name).write_text("text")
        (outputs / name).chmod(0o644)
        (outputs / name).parent.chmod(0o755)
    outputs.chmod(0o755)
    (outputs / "private").chmod(0o700)
    (outputs / "one/secret").chmod(0o640)
    (outputs / "index/index.html").chmod(0o600)
    (outputs / "link").symlink_to("private/report.html")
    paths = ["open/report.html", "private/report.html", "private/", "index/", "one/secret", "link", "missing", "one/"]
    with ui(public_path, ports) as servers:
        addresses = [f"{servers.outputs}/{path}" for path in paths]
        assert [one[:8] for one in get_as(0, *addresses[:6])] == ["200 text"] * 2 + ["200 <!do"] * 2 + ["200 text"] * 2
        found = get_as(NOBODY, *addresses)
        assert [one[:3] for one in found] == ["200", "403", "403", "200", "403", "403", "403", "200"]
        assert "index.html" in found[3] and "Every study" not in found[3]
        outputs.chmod(0o700)
        assert get_as(NOBODY, addresses[0], f"{servers.outputs}/") == ["403", "403"]
        assert get_as(0, addresses[0]) == ["200 text"]


@pytest.mark.needs_root
@needs("setpriv")
def test_other_users_cannot_use_luigid(tmp_path: Path, ports: tuple[int, int]) -> None:
    with ui(tmp_path, ports) as servers:
        data = urllib.parse.urlencode({"data": json.dumps(TASK)})
        pages = [f"{servers.tasks}/api/add_task?{data}", f"{servers.tasks}/", f"{servers.tasks}/api/worker_list"]
        assert get_as(NOBODY, *pages) == ["403"] * 3
        assert servers.names() == set()
        assert [one[:3] for one in get_as(0, *pages)] == ["200"] * 3
        luigi = [str(BIN / "luigi"), "--module", "tasks", "QuickTest", "--scheduler-port", str(ports[0])]
        options = ["--output-dir", str(tmp_path / "mine"), "--binding", "none"]
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        done = subprocess.run([*user, *luigi, *options], cwd="/", capture_output=True, text=True, timeout=240)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "the scheduler refuses: this luigid is of another user" in done.stderr


@pytest.mark.needs_root
@needs("setpriv")
def test_user_of_a_connection_is_the_kernels(tmp_path: Path) -> None:
    """Whatever the version of IP; not once the client has closed its end, since its socket is then listed as root's."""
    script = "import socket, sys, time; s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); time.sleep(600)"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host, uid in (("127.0.0.1", NOBODY), ("::ffff:127.0.0.1", NOBODY), ("127.0.0.1", 0)):
            command = [
                "setpriv",
                f"--reuid={uid}",
                "--clear-groups",
                sys.executable,
                "-IS",
                "-c",
                script,
                host,
                str(port),
            ]
            with subprocess.Popen(command) as client:
                connection, address = server.accept()
                with connection:
                    ends = address, connection.getsockname()
                    assert user_of_client(*ends) == uid
                    assert is_own_user(*ends) is (uid == 0)
                    client.kill()
                    client.wait()
                    assert user_of_client(*ends) is None
    assert user_of_client(("127.0.0.1", 1), ("127.0.0.1", 2)) is None


def test_index_page_that_links_to_the_outside_is_not_served(tmp_path: Path, ports: tuple[int, int]) -> None:
    outputs = tmp_path / "outputs"
    (outputs / "folder").mkdir(parents=True)
    (tmp_path / "private").write_text("secret")
    (outputs / "folder/index.html").symlink_to(tmp_path / "private")
    with ui(tmp_path, ports):
        assert get(ports[1], "/folder/index.html", {})[0] == 404
        status, page = get(ports[1], "/folder/", {})
        assert status == 200 and "secret" not in page
        assert get(ports[1], "/", {})[0] == 200


def test_state_that_another_user_can_write_is_refused(tmp_path: Path, ports: tuple[int, int]) -> None:
    """It is a pickle."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    done = subprocess.run(command(tmp_path, *ports), cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "another user can write there" in done.stderr and "chmod 700" in done.stderr
    (tmp_path / "state").rmdir()
    with ui(tmp_path, ports):
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
