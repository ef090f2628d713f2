import json
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replace_field

from bench.errors import StudyError
from bench.host.checks import Facts, checks
from bench.host.doctor import doctor_command, fatal, gather, to_text
from bench.records.host import Check, CheckName, Preflight
from tests.host.made_hosts import HOSTS, TRAPS, host_root, write_host


def clean() -> Facts:
    return gather(host_root("two_sockets"))


def by_name(checks: Iterable[Check]) -> dict[CheckName, Check]:
    return {check.name: check for check in checks}


def alarms(root: Path) -> list[str]:
    return [f"{check.name} {check.state}" for check in checks(gather(root)) if check.state != "ok"]


def test_nothing_is_reported_on_the_clean_host() -> None:
    assert alarms(host_root("two_sockets")) == []


@pytest.mark.parametrize("name", TRAPS)
def test_each_trap_triggers_exactly_its_check(name: str, trap_root: Callable[[str], Path]) -> None:
    assert alarms(trap_root(name)) == [f"{TRAPS[name].check} {TRAPS[name].state}"]


def test_every_check_has_a_trap() -> None:
    assert {trap.check for trap in TRAPS.values()} == set(by_name(checks(clean()))) == set(CheckName)


def test_every_alarm_has_a_fact_and_a_remedy_and_a_line_for_a_shell(trap_root: Callable[[str], Path]) -> None:
    lines: set[str] = set()
    for name in TRAPS:
        for check in checks(gather(trap_root(name))):
            assert check.fact and bool(check.remedy) == (check.state != "ok"), (name, check)
            assert bool(check.command) == bool(check.remedy) and "\n" not in check.command, (name, check)
            if check.command:
                lines.add(check.command)
    subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True, timeout=240)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ('ID=debian\nVERSION_ID="12"', f"sudo {Path(__file__).parents[2] / '.ci/install-nsys'}"),
        ('NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"', "devtools/repos/ubuntu2404/$(dpkg --print-architecture) /"),
        ("ID=fedora\nVERSION_ID=43", "find / -name nsys -type f 2>/dev/null"),
        ("", "find / -name nsys -type f 2>/dev/null"),
    ],
)
def test_nsys_is_installed_by_a_line_for_the_distribution(
    release: str, expected: str, trap_root: Callable[[str], Path]
) -> None:
    root = trap_root("nsys")
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/os-release").write_text(release)
    command = by_name(checks(gather(root)))[CheckName.NSYS].command
    assert expected in command
    subprocess.run(["bash", "-n"], input=command, text=True, check=True, timeout=240)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("virtual_machine", ["gpu_node warning"]),
        ("dgx_a100", []),
        ("container_cpuset", ["cpuset warning"]),
        ("grace_hopper", []),
        ("one_node", []),
        ("offline_answer", ["gpu_node warning"]),
    ],
)
def test_alarms_on_other_hosts(name: str, expected: list[str]) -> None:
    assert alarms(host_root(name)) == expected


def test_pool_that_fits_on_no_node_is_an_error() -> None:
    check = by_name(checks(replace(clean(), pool_bytes=1 << 40)))[CheckName.NODE_MEMORY]
    assert check.state == "error" and "1.00 TiB" in check.fact


def test_narrow_affinity_is_distinguished_from_a_cpuset() -> None:
    check = by_name(checks(replace(clean(), affinity=(0, 1))))[CheckName.CPUSET]
    assert check.state == "warning" and "restricted to CPUs 0-1 (taskset?)" in check.fact


def test_own_process_does_not_make_a_gpu_busy() -> None:
    facts = clean()
    gpus = tuple(replace_field(gpu, processes=(facts.own_pid,)) for gpu in facts.nvml.gpus)
    facts = replace(facts, nvml=replace_field(facts.nvml, gpus=gpus))
    assert all(check.state == "ok" for check in checks(facts))


@pytest.mark.parametrize(("host", "state"), [("cxl_memory", "warning"), ("two_sockets", "ok")])
def test_memory_demotion_is_reported_where_it_has_a_target(tmp_path: Path, host: str, state: str) -> None:
    root = write_host(tmp_path, HOSTS[host] | {"sys/kernel/mm/numa/demotion_enabled": "true\n"})
    assert by_name(checks(gather(root)))[CheckName.NUMA_BALANCING].state == state


def test_memory_of_gpus_is_named() -> None:
    check = by_name(checks(gather(host_root("two_graces"))))[CheckName.NODES]
    assert check.fact == "nodes 0-1 cpu+memory; nodes 2-3 memory of GPU 0; nodes 4-5 memory of GPU 1"


def test_busy_gpu_of_another_user_is_not_reported(trap_root: Callable[[str], Path]) -> None:
    facts = gather(trap_root("gpu_busy"))
    gpus = tuple(replace_field(gpu, visible=gpu.index != 1) for gpu in facts.topology.gpus)
    facts = replace(facts, topology=replace_field(facts.topology, gpus=gpus))
    assert by_name(checks(facts))[CheckName.GPU_BUSY].state == "ok"


def test_warnings_are_fatal_when_strict(trap_root: Callable[[str], Path]) -> None:
    warned = checks(gather(trap_root("governor")))
    assert not fatal(warned, strict=False) and [check.name for check in fatal(warned, strict=True)] == ["governor"]
    assert [check.name for check in fatal(checks(gather(trap_root("ecc"))), strict=False)] == ["ecc"]


def test_text_names_every_check() -> None:
    found = checks(clean())
    assert all(check.name in to_text(Preflight(checks=found)) for check in found)


@pytest.mark.parametrize(
    ("host", "last"),
    [
        ("ecc", "1 error: to be seen to before a study"),
        ("governor", "1 warning: a study can run, and its report says so"),
    ],
)
def test_text_ends_with_what_follows(host: str, last: str, trap_root: Callable[[str], Path]) -> None:
    assert to_text(Preflight(checks=checks(gather(trap_root(host))))).endswith(f"\n\n{last}")
    clean_text = to_text(Preflight(checks=checks(clean())))
    assert clean_text.endswith("\n\nnothing found that makes a study fail or mislead")


def test_command_prints_json_of_this_host() -> None:
    text, code = doctor_command(as_json=True, strict=False)
    found = json.loads(text)["checks"]
    assert all(set(check) == {"name", "state", "fact", "remedy", "command"} for check in found)
    assert code == (1 if "error" in {check["state"] for check in found} else 0)


def test_recorded_host_needs_its_kernel_files_only(tmp_path: Path) -> None:
    root = write_host(tmp_path, {file: text for file, text in HOSTS["one_node"].items() if not file.endswith(".json")})
    text, code = doctor_command(as_json=False, strict=True, root=root)
    assert code == 1 and "GPU(s) at 0000:01:00.0 without NVML: not recorded (nvml.json)" in text
    assert text.count("not tried on a recorded host") == 3
    (root / "nvml.json").write_text("[]")
    with pytest.raises(StudyError, match="the recorded host cannot be read"):
        doctor_command(as_json=False, strict=False, root=root)
