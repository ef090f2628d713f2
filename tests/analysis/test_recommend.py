import pytest

from bench.analysis.recommend import best_node, recommend
from bench.records.results import LocalSource, Penalty, Verdict
from tests.report.made import cell, penalty, results


def entry(verdict: str, node: int = 2, headline: bool = True, cpu_node: int | None = None) -> Penalty:
    remote_cpu = node if cpu_node is None else cpu_node
    return penalty(verdict=verdict, remote_node=node, remote_cpu_node=remote_cpu, headline=headline)


@pytest.mark.parametrize(
    ("entries", "best"),
    [
        ([entry("FASTER"), entry("SLOWER")], 0),
        ([entry("FASTER"), entry("SAME")], 2),
        ([entry("FASTER", node=1), entry("SLOWER", node=2)], 1),
        # Of many models some come out faster elsewhere by chance.
        ([entry("FASTER", headline=False), entry("SAME")], 0),
        ([entry("FASTER"), entry("SLOWER", headline=False)], 0),
        # CPUs on one node and memory on another are no node to run on.
        ([entry("FASTER", cpu_node=0)], 0),
        ([entry("FASTER"), entry("SLOWER", cpu_node=0)], 2),
    ],
)
def test_another_node_wins_if_some_model_gains_and_none_loses(entries: list[Penalty], best: int) -> None:
    assert best_node(0, entries) == best


def test_the_worst_loss_is_kept_with_its_interval() -> None:
    entries = tuple(
        penalty(penalty=loss, interval=(loss - 0.01, loss + 0.01), verdict="SLOWER", remote_cell=f"remote{loss}")
        for loss in (0.1, 0.3, 0.2)
    )
    (found,) = recommend(results(cells=(cell(),), penalties=entries))
    assert (found.node, found.worst_cell, found.penalty) == (0, "remote0.3", 0.3)
    assert found.interval == (0.3 - 0.01, 0.3 + 0.01) and found.verdict is Verdict.SLOWER


def test_no_node_is_recommended_where_none_is_known_to_be_near() -> None:
    entries = (penalty(local_source=LocalSource.REFERENCE, penalty=0.1),)
    (found,) = recommend(results(cells=(cell(),), penalties=entries))
    assert found.node is None and found.local_node == 0


def test_the_only_node_is_recommended_without_a_comparison() -> None:
    (found,) = recommend(results(cells=(cell(node=3),)))
    assert (found.node, found.local_source) == (3, None)
    (found,) = recommend(results(cells=(cell(node=0), cell(name="other", node=1))))
    assert found.node is None
