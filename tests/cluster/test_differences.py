from types import SimpleNamespace
from typing import Any

from bench.cluster.comparison import differences, host_type, settings_of
from bench.records.host import Check, CheckName, CheckState, Fingerprint, Gpu, Topology


def results(count: int = 1, link_width: int = 16, state: CheckState = CheckState.OK, **fingerprint: str) -> Any:
    """The part of Results that is compared."""
    facts = {"host": "a", "cpu": "EPYC", "governor": "performance", "gpus": "H200 GPU-1"} | fingerprint
    gpu = Gpu(index=0, name="H200", node=0, link_generation_max=5, link_width=link_width, ecc=True)
    return SimpleNamespace(
        fingerprint=Fingerprint(**facts),
        topology=Topology(gpus=(gpu,) * count),
        preflight=(Check(name=CheckName.LINK, state=state, fact=""),),
    )


def test_ids_and_names_of_hosts_are_not_a_difference() -> None:
    one, other = results(host="n1", gpus="H200 GPU-1"), results(host="n2", gpus="H200 GPU-2")
    assert host_type(one) == host_type(other) == "1 x H200; EPYC"
    assert differences({"n1": settings_of(one), "n2": settings_of(other)}) == []


def test_host_with_other_settings_is_named() -> None:
    odd = results(link_width=8, state=CheckState.WARNING, governor="powersave")
    found = differences({"n1": settings_of(results()), "n2": settings_of(odd), "n3": settings_of(results())})
    assert {(one.setting, one.usual, *one.others.items()) for one in found} == {
        ("the CPU frequency governor", "performance", ("n2", "powersave")),
        ("GPU 0: PCIe link", "generation 5, 16 lanes", ("n2", "generation 5, 8 lanes")),
        ("numastudy doctor: link", "ok", ("n2", "warning")),
    }


def test_neither_of_two_different_hosts_is_usual() -> None:
    (one,) = differences({"n1": settings_of(results()), "n2": settings_of(results(driver="590"))})
    assert (one.usual, one.others) == (None, {"n1": "not recorded", "n2": "590"})


def test_other_gpus_or_cpu_are_another_type() -> None:
    assert len({host_type(one) for one in (results(), results(count=8), results(cpu="Xeon"))}) == 3
