import subprocess
import sys

from bench.host.gpus import clock_policy, normal_bus_id, query_nvml, throttle_reasons


def test_nvml_bus_ids_become_those_of_sysfs() -> None:
    assert normal_bus_id("00000000:0F:00.0") == "0000:0f:00.0"


def test_idle_and_user_clocks_are_no_throttling() -> None:
    assert throttle_reasons(0x1 | 0x2) == []
    assert throttle_reasons(0x40 | 0x4) == ["power cap", "thermal slowdown (hardware)"]
    assert throttle_reasons(None) is None


def test_clock_policy_leaves_out_what_moves() -> None:
    answer = {"clocks": {"graphics_mhz": 1410, "graphics_max_mhz": 1980}, "power_limit_mw": 700000, "persistence": True}
    assert clock_policy(answer) == "power limit 700 W, persistence on"
    assert clock_policy(answer | {"clocks": {"graphics_mhz": 345}}) == "power limit 700 W, persistence on"


def test_a_host_with_or_without_driver_gives_a_plain_answer() -> None:
    answer = query_nvml()
    assert isinstance(answer["gpus"], list)
    assert answer["error"] is None or (isinstance(answer["error"], str) and not answer["gpus"])


def test_asking_for_gpus_loads_no_torch() -> None:
    code = "import sys; from bench.host.gpus import query_nvml; query_nvml(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
