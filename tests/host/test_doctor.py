import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.host.doctor import checks, doctor_command, fatal, gather, to_json, to_text
from tests.host.conftest import HOSTS, TRAPS

CLEAN = HOSTS / "two_sockets"


def alarms(root: Path) -> list[str]:
    return [f"{check.name} {check.state}" for check in checks(gather(root)) if check.state != "ok"]


def test_the_clean_host_triggers_nothing() -> None:
    assert alarms(CLEAN) == []


@pytest.mark.parametrize("name", TRAPS)
def test_each_trap_triggers_exactly_its_line(name: str, trap_root: Callable[[str], Path]) -> None:
    root = trap_root(name)
    assert alarms(root) == [(root / "expected").read_text().strip()]


def test_every_line_but_has_a_trap() -> None:
    lines = {check.name for check in checks(gather(CLEAN))}
    assert {name.read_text().split()[0] for name in (HOSTS / "traps").glob("*/expected")} == lines


def test_an_alarm_comes_with_a_fact_and_a_remedy(trap_root: Callable[[str], Path]) -> None:
    for name in TRAPS:
        for check in checks(gather(trap_root(name))):
            assert check.fact and bool(check.remedy) == (check.state != "ok"), (name, check)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("virtual_machine", ["gpu_node warning"]),
        ("dgx_a100", []),
        ("container_cpuset", ["cpuset warning"]),
        ("grace_hopper", []),
    ],
)
def test_recorded_hosts(name: str, expected: list[str]) -> None:
    assert alarms(HOSTS / name) == expected


def test_a_pool_that_fits_nowhere_is_an_error() -> None:
    found = {check.name: check for check in checks(gather(CLEAN), pool_bytes=1 << 40)}
    assert found["node_memory"].state == "error" and "1027.0 GiB" in found["node_memory"].fact


def test_a_narrowed_affinity_is_told_apart_from_a_cpuset() -> None:
    facts = replace(gather(CLEAN), affinity=(0, 1))
    found = {check.name: check for check in checks(facts)}
    assert found["cpuset"].state == "warning" and "held to CPUs 0-1 (taskset?)" in found["cpuset"].fact


def test_the_doctors_own_process_does_not_make_a_gpu_busy() -> None:
    facts = gather(CLEAN)
    for gpu in facts.nvml["gpus"]:
        gpu["processes"] = [facts.own_pid]
    assert all(check.state == "ok" for check in checks(facts))


def test_strict_makes_warnings_fatal(trap_root: Callable[[str], Path]) -> None:
    warned = checks(gather(trap_root("governor")))
    assert not fatal(warned, strict=False) and [check.name for check in fatal(warned, strict=True)] == ["governor"]
    assert [check.name for check in fatal(checks(gather(trap_root("ecc"))), strict=False)] == ["ecc"]


def test_json_and_text_say_the_same() -> None:
    found = checks(gather(CLEAN))
    plain = json.loads(to_json(found))["checks"]
    assert [set(check) for check in plain] == [{"name", "state", "fact", "remedy"}] * len(found)
    assert all(check.name in to_text(found) for check in found)


def test_the_command_on_this_host() -> None:
    text, code = doctor_command(as_json=True, strict=False)
    states = {check["state"] for check in json.loads(text)["checks"]}
    assert code == (1 if "error" in states else 0)
