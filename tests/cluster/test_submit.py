"""The batch script. That Slurm takes it, and what then happens: tests/slurm."""

import re
import subprocess
from pathlib import Path

import pytest

from bench.cluster.submit import Request, dry_run, render
from bench.errors import StudyError
from bench.study.load import load_study


def script(folder: str = "/data/out/quick_test/2026-11-22/10-00-00", **request: object) -> str:
    return render("quick_test", "n1", Path(folder), Request(**request))


def test_job_has_the_node_to_itself_and_slurm_binds_nothing() -> None:
    text = script()
    for line in ("--exclusive", "--mem=0", "--signal=B:USR1@300", "--requeue", "--nodelist=n1", "--nodes=1"):
        assert f"\n#SBATCH {line}\n" in text
    assert "--cpu-bind=none --mem-bind=none" in text


def test_options_of_a_site_come_last() -> None:
    text = script(options=["time=04:00:00", "gres=gpu:8", "signal=B:USR1@60"])
    assert re.findall(r"#SBATCH --(time|gres|signal)=(\S+)", text) == [
        ("signal", "B:USR1@300"), ("time", "04:00:00"), ("gres", "gpu:8"), ("signal", "B:USR1@60"),
    ]  # fmt: skip
    assert text.index("#SBATCH --gres") < text.index("\nexport ")


@pytest.mark.parametrize(
    ("options", "seconds"), [([], 300), (["signal=B:USR1@60"], 60), (["signal=B:USR1@60", "signal=B:USR1@900"], 900)]
)
def test_job_knows_how_long_before_its_limit_it_is_signalled(options: list[str], seconds: int) -> None:
    assert f"\nexport NUMASTUDY_SIGNAL_BEFORE_S={seconds}\n" in script(options=options)


@pytest.mark.parametrize(
    "option", ["signal=USR1@300", "signal=B:TERM@300", "signal=B:USR1", "signal=B:USR1@0", "signal"]
)
def test_signal_that_the_batch_script_ignores_is_refused(option: str) -> None:
    with pytest.raises(StudyError, match="allowed is signal=B:USR1@SECONDS"):
        dry_run(load_study("quick_test"), ["n1"], Request(options=[option]), Path("out"))


@pytest.mark.parametrize("option", ["time=1\n#SBATCH --uid=0", "a b", "x='", "x=$HOME", "-x", "x=`id`", ""])
def test_option_with_shell_characters_is_refused(option: str) -> None:
    with pytest.raises(StudyError, match="allowed is NAME or NAME=VALUE"):
        dry_run(load_study("quick_test"), ["n1"], Request(options=[option]), Path("out"))


@pytest.mark.parametrize("host", ["n1\n#SBATCH --uid=0", "n[1-3]", "n1,n2", "-w"])
def test_host_name_with_other_characters_is_refused(host: str) -> None:
    with pytest.raises(StudyError, match="is not the name of a host"):
        render("quick_test", host, Path("/data"), Request())


@pytest.mark.parametrize("scheduler", ["head", "head:", ":8082", "head:port"])
def test_scheduler_must_be_host_and_port(scheduler: str) -> None:
    with pytest.raises(StudyError, match="allowed is HOST:PORT"):
        dry_run(load_study("quick_test"), ["n1"], Request(scheduler=scheduler), Path("out"))


@pytest.mark.parametrize("name", ["with space", "it's", "$(touch harm)", "100%j", "a;b"])
def test_folder_of_any_name_is_quoted_for_the_shell(tmp_path: Path, name: str) -> None:
    text = script(str(tmp_path / name))
    assert f'--output="{tmp_path}/{name.replace("%", "%%")}/hosts/n1/logs/job.log"' in text
    # srun is replaced by something that shows its words.
    shown = text.replace("srun ", "printf '%s\\n' ").replace('touch "$', 'echo "$')
    done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.stdout.splitlines()[-1] == str(tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_folder_is_refused_when_sbatch_cannot_name_it() -> None:
    with pytest.raises(StudyError, match="sbatch cannot write into such a folder"):
        script('/data/a"b')


def test_signal_leaves_the_drain_file_and_ends_nothing(tmp_path: Path) -> None:
    """A signal leaves the drain file and ends nothing; the exit code is that of the step."""
    stand_in = tmp_path / "srun"
    stand_in.write_text('#!/bin/sh\nkill -USR1 $PPID\nsleep 0.3\nls "$NUMASTUDY_DRAIN_FILE"\nexit 30\n')
    stand_in.chmod(0o755)
    (tmp_path / "hosts" / "n1").mkdir(parents=True)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    words = ["bash", "-c", script(str(tmp_path))]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (30, f"{tmp_path}/hosts/n1/drain-7-0\n")


@pytest.mark.parametrize("last", ["exit 7", "sleep 0.5; kill -USR1 $PPID; sleep 0.1; exit 7"])
def test_exit_code_is_that_of_the_step(tmp_path: Path, last: str) -> None:
    """A step that fails before the script looks for it, and one that ends while the script handles a signal."""
    (tmp_path / "hosts" / "n1").mkdir(parents=True)
    text = (
        script(str(tmp_path))
        .replace("step=$!\n", "step=$!\nsleep 0.2\n")
        .replace("    wait $step\n", "    wait $step\n    sleep 0.3\n")
    )
    stand_in = tmp_path / "srun"
    stand_in.write_text(f"#!/bin/sh\n{last}\n")
    stand_in.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    assert subprocess.run(["bash", "-c", text], env=environment, timeout=240).returncode == 7


def test_template_of_a_site_is_used(tmp_path: Path) -> None:
    template = tmp_path / "ours.j2"
    template.write_text("module load cuda\nsrun {{ python }} {{ folder | quoted }} {{ host }}")
    assert script(template=template).splitlines()[0] == "module load cuda"
    template.write_text("{{ nothing }}")
    with pytest.raises(StudyError, match="the template cannot be used: 'nothing' is undefined"):
        script(template=template)
    with pytest.raises(StudyError, match="the template cannot be used"):
        script(template=tmp_path / "none.j2")
