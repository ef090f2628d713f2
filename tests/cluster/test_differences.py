from typing import Any

from bench.cluster.report import differences, host_type, settings_of


def results(**fingerprint: str) -> dict[str, Any]:
    facts = {"host": "a", "cpu": "EPYC", "governor": "performance", "gpus": "H200 GPU-1"} | fingerprint
    gpu = {"index": 0, "name": "H200", "node": 0, "link_generation_max": 5, "link_width": 16, "ecc": True}
    return {"fingerprint": facts, "topology": {"gpus": [gpu]}, "preflight": [{"name": "link", "state": "ok"}]}


def test_ids_and_names_of_hosts_are_no_difference() -> None:
    one, other = results(host="n1", gpus="H200 GPU-1"), results(host="n2", gpus="H200 GPU-2")
    assert host_type(one) == host_type(other) == "1 x H200; EPYC"
    assert differences({"n1": settings_of(one), "n2": settings_of(other)}) == []


def test_the_host_that_is_set_up_differently_is_named() -> None:
    odd = results(governor="powersave")
    odd["topology"]["gpus"][0]["link_width"] = 8
    odd["preflight"][0]["state"] = "warning"
    found = differences({"n1": settings_of(results()), "n2": settings_of(odd), "n3": settings_of(results())})
    assert {(one.setting, one.usual, *one.others.items()) for one in found} == {
        ("the CPU frequency governor", "performance", ("n2", "powersave")),
        ("GPU 0: PCIe link", "generation 5, 16 lanes", ("n2", "generation 5, 8 lanes")),
        ("numastudy doctor: link", "ok", ("n2", "warning")),
    }


def test_of_two_that_differ_neither_is_usual() -> None:
    (one,) = differences({"n1": settings_of(results()), "n2": settings_of(results(driver="590"))})
    assert (one.usual, one.others) == (None, {"n1": "not recorded", "n2": "590"})


def test_another_gpu_or_cpu_is_another_type() -> None:
    more = results()
    more["topology"]["gpus"] *= 8
    assert len({host_type(one) for one in (results(), more, results(cpu="Xeon"))}) == 3
