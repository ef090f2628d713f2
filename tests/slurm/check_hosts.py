"""A study on nodes that die, never come, or run out of time. `make test-slurm`."""

import json
import os
import re
import time
import urllib.request
from pathlib import Path

import pytest

from tests.reliability.stub import behave, hold, replay
from tests.slurm.local_slurm import LocalSlurm, wait_until
from tests.slurm.many_hosts import JOURNAL, ManyHosts
from tests.tasks.study_calls import PROJECT_CONFIG, Calls, luigid

pytestmark = pytest.mark.timeout(3000)


def test_requeues_a_dead_node_and_names_a_missing_one(tmp_path: Path, slurm: LocalSlurm) -> None:
    """The real workload on three nodes; slurmctld is killed and started again meanwhile."""
    study = ManyHosts(slurm, Calls(tmp_path / "work", []), ("n1", "n2", "n3", "n4"))
    output = study.submit()
    assert output.count("submitted as job") == 4
    wait_until(lambda: study.runs("n2") >= 1, "a run on n2", 600)
    slurm.power_off("n2")
    slurm.kill("slurmctld")
    time.sleep(3)
    slurm.start_slurmctld()
    study.wait(600, n2="waiting")
    assert "queued again (start 2)" in study.status()["n2"]["reason"]
    slurm.start_slurmd("n2")
    study.wait(720, n1="done", n2="done", n3="done", n4="waiting")
    for host in ("n1", "n2", "n3"):
        assert study.check_whole(host) == 4
        assert (study.directory(host).path / "report.html").exists()
        assert study.directory(host).host().host == host
    # What the last job left; then what is made on request.
    assert (study.path / "cluster_report.html").exists()
    report = study.report()
    assert [host["host"] for host in report["hosts"] if host["reported"]] == ["n1", "n2", "n3"]
    (missing,) = report["missing"]
    assert missing["host"] == "n4" and "not started yet: ReqNodeNotAvail" in missing["reason"]
    (kind,) = report["types"]
    assert kind["hosts"] == ["n1", "n2", "n3"]
    # One machine three times: there is nothing to distinguish but the nodes' load.
    assert [one for one in kind["differences"] if not one["setting"].startswith("numastudy doctor")] == []
    assert {one["quantity"] for one in kind["compared"]} == {"throughput", "H2D link", "D2H link"}
    assert {(cell["host"], cell["outcome"]) for cell in report["cells"]} == {("n1", "ok"), ("n2", "ok"), ("n3", "ok")}
    page = (study.path / "cluster_report.html").read_text()
    assert "3 of 4 hosts reported" in page and 'href="hosts/n2/report.html"' in page
    # The history of the output directory has every host once.
    listed = study.call("history", "--output-dir", str(study.calls.folder / "outputs"), "--json")
    assert sorted(Path(one["run_directory"]).name for one in json.loads(listed)["studies"]) == ["n1", "n2", "n3"]
    assert study.submit().count("all of it is measured") == 3


def test_a_job_near_its_time_limit_resumes_in_its_next_start(tmp_path: Path, slurm: LocalSlurm, recorded: Path) -> None:
    calls = Calls(tmp_path / "work", [])
    replay(calls, recorded)
    behave(calls, JOURNAL)
    calls.study["repeats"] = 6
    study = ManyHosts(slurm, calls, ("n1",))
    # The second run lasts until the signal comes; a busy machine needs its time for the first one.
    held = hold(calls, after_runs=1)
    study.submit("--sbatch", "time=3", "--sbatch", "signal=B:USR1@30")
    wait_until(lambda: "ends after the current task" in study.log("n1"), "the signal")
    held.unlink()
    study.wait(1200)
    assert study.status()["n1"]["restarts"] >= 1, study.log("n1")
    assert "near the time limit" in study.log("n1")
    assert study.check_whole("n1") == 14
    study.check_journal("n1")
    # Each run was finished: none began twice.
    assert len(study.journal("n1")) == 14


def test_a_second_submission_measures_nothing_beside_the_first(
    tmp_path: Path, slurm: LocalSlurm, recorded: Path
) -> None:
    calls = Calls(tmp_path / "work", [])
    replay(calls, recorded, longest_step_s=0.5)
    behave(calls, JOURNAL)
    study = ManyHosts(slurm, calls, ("n2", "n3"))
    study.submit()
    wait_until(lambda: all(study.runs(host) for host in study.hosts), "runs", 600)
    first = study.path
    assert re.findall(r"job \d+ is (\w+)", study.submit()) == ["running", "running"]
    assert study.path == first
    # The script by hand, as a user might: Slurm starts it when the node is free, and it steps back.
    script = study.call("submit", str(calls.write()), "--nodes", "n2", "--dry-run")
    folder = re.search(r"bench\.cluster\.job (\S+)", script)[1]
    by_hand = tmp_path / "by_hand.sh"
    by_hand.write_text(script.replace(folder, str(study.path)).replace("--exclusive", "--oversubscribe"))
    log = str(tmp_path / "by_hand.log")
    job = slurm.call("sbatch", "--parsable", "-o", log, str(by_hand)).stdout.strip()
    wait_until(lambda: slurm.job(job)["JobState"] == "COMPLETED", "the other job", 600, interval_s=1)
    assert f"job {job} measures nothing" in Path(log).read_text()
    study.wait(600)
    for host in study.hosts:
        study.check_whole(host)
        study.check_journal(host)


def test_a_cancelled_job_says_so_and_is_submitted_again(tmp_path: Path, slurm: LocalSlurm, recorded: Path) -> None:
    calls = Calls(tmp_path / "work", [])
    replay(calls, recorded, longest_step_s=0.25)
    calls.study["repeats"] = 4
    study = ManyHosts(slurm, calls, ("n3",))
    study.submit()
    wait_until(lambda: study.runs("n3") >= 1, "a run", 600)
    slurm.call("scancel", study.status()["n3"]["job_id"])
    study.wait(600, n3="incomplete")
    wait_until(lambda: "stopped: by SIGTERM" in study.status()["n3"]["reason"], "the record of the job", 600)
    assert "cancelled" in study.status()["n3"]["reason"]
    study.submit()
    study.wait(600)
    study.check_whole("n3")


def test_a_job_that_slurm_holds_is_submitted_again(tmp_path: Path, slurm: LocalSlurm, recorded: Path) -> None:
    """Its start fails, as with a broken mount or GPU check in a site's prolog; then somebody mends the node."""
    calls = Calls(tmp_path / "work", [])
    replay(calls, recorded, longest_step_s=0.2)
    study = ManyHosts(slurm, calls, ("n1",))
    slurm.no_start.touch()
    try:
        study.submit()
        study.wait(600, n1="incomplete")
    finally:
        slurm.no_start.unlink()
        wait_until(lambda: slurm.node_state("n1") == "DRAINED", "the drained node")
        slurm.call("scontrol", "update", "nodename=n1", "state=resume")
    assert "launch failed requeued held" in study.status()["n1"]["reason"]
    held = study.status()["n1"]["job_id"]
    assert "submitted as job" in study.submit()
    assert slurm.job(held)["JobState"] == "CANCELLED"
    study.wait(600)
    study.check_whole("n1")


def test_one_scheduler_for_all_hosts(tmp_path: Path, slurm: LocalSlurm, recorded: Path) -> None:
    """Each host runs its own tasks and no other's, which the central scheduler knows too."""
    calls = Calls(tmp_path / "work", [])
    replay(calls, recorded, longest_step_s=0.2)
    behave(calls, JOURNAL)
    study = ManyHosts(slurm, calls, ("n1", "n2"))
    with luigid(tmp_path / "luigid", PROJECT_CONFIG) as port:
        study.submit("--scheduler", f"127.0.0.1:{port}")
        study.wait(600)
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/api/task_list?data=%7B%22status%22:%22DONE%22%7D"
        ) as answer:
            done = json.loads(answer.read())["response"].values()
    assert {task["params"]["host"] for task in done if task["name"] == "RunPipeline"} == {"n1", "n2"}
    for host in study.hosts:
        assert study.check_whole(host) == 4
        study.check_journal(host)


def test_hosts_by_feature_and_by_list(tmp_path: Path, slurm: LocalSlurm) -> None:
    study = ManyHosts(slurm, Calls(tmp_path / "work", []), ())
    file = str(study.calls.write())
    by_count = study.call("submit", file, "--count", "2", "--constraint", "gpu", "--dry-run")
    # Two of the three: one that still ends a job is taken later than one that is idle.
    assert re.fullmatch(r"n[1-3] n[1-3]", " ".join(re.findall(r"(?:--nodelist=|# the same for )(\S+)", by_count)))
    assert "# the same for n2, n3" in study.call("submit", file, "--nodelist", "n[1-3]", "--dry-run")
    for words, output in (
        (("--count", "2", "--constraint", "broken"), "0 with the feature broken are available: n4 is"),
        (("--nodes", "n1,n77"), "Slurm has no node n77"),
    ):
        done = slurm.call(str(Path(os.sys.executable).with_name("numastudy")), "submit", file, *words)
        assert done.returncode == 2 and output in done.stderr, done.stderr


def test_command_is_measured_on_each_host(tmp_path: Path, slurm: LocalSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is passed reaches the command through sbatch, and is stored nowhere."""
    secret = "a-secret-of-23-letters!"
    monkeypatch.setenv("TOKEN", secret)
    work = tmp_path / "work"
    command = {
        "run": ["sh", "-c", f'[ "$TOKEN" = "{secret[:8]}${{TOKEN#????????}}" ] && sleep 0.2 && echo took 0.2 s'],
        "metrics": {"took": {"regex": r"took ([\d.]+) s", "unit": "s", "better": "lower"}},
        "pass_env": ["TOKEN"],
    }
    common = {"name": "mine", "gpu_ids": [0], "numa_nodes": [0], "device": "cpu", "repeats": 2, "binding": "none"}
    study = ManyHosts(slurm, Calls(work, [], common | {"disturbed_repeats": 0, "command": command}), ("n1", "n2"))
    assert study.submit().count("submitted as job") == 2
    study.wait(600)
    for host in ("n1", "n2"):
        (cell,) = json.loads((study.directory(host).path / "results.json").read_text())["cells"]
        assert (cell["outcome"], cell["metric"]["name"], cell["metric"]["value"]) == ("ok", "took", pytest.approx(0.2))
    report = study.report()
    assert {(cell["host"], cell["outcome"]) for cell in report["cells"]} == {("n1", "ok"), ("n2", "ok")}
    assert study.submit().count("all of it is measured") == 2
    assert not any(secret.encode() in file.read_bytes() for file in study.path.rglob("*") if file.is_file())
