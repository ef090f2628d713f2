import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import StudyError
from bench.records.study import TRACED
from bench.study.order import measuring_order

PAIRS = [(f"g{g}_numa{n}", f"g{g}") for g in range(5) for n in (0, 2)]

grids = st.builds(
    lambda groups, nodes: [(f"c{g}n{n}", f"g{g}") for g in range(groups) for n in range(nodes)],
    st.integers(1, 7),
    st.integers(1, 4),
)


@given(grids, st.integers(0, 7), st.integers(-(2**40), 2**40), st.booleans())
def test_each_block_has_every_cell_next_to_its_group(cells, repeats, seed, traced):
    slots = measuring_order(cells, repeats, seed, traced)
    assert [slot.position for slot in slots] == list(range(len(slots)))
    assert [slot.block for slot in slots] == sorted(slot.block for slot in slots)
    names = Counter(name for name, _ in cells)
    for block in range(1, repeats + 1 + traced):
        of_block = [slot for slot in slots if slot.block == block]
        assert Counter(slot.cell for slot in of_block) == names
        assert {slot.repeat for slot in of_block} == {TRACED if block > repeats else block}
        groups = [slot.group for slot in of_block]
        changes = sum(a != b for a, b in pairwise(groups))
        assert changes == len(set(groups)) - 1


def test_the_first_of_a_pair_is_drawn_for_each_group_and_block():
    """Not by turns: half of all pairs begin with B, and so does half of those that follow one that did."""
    slots = measuring_order([(f"g{g}_{side}", f"g{g}") for g in range(40) for side in "ab"], 50, 3, traced=False)
    first = {}
    for slot in slots:
        first.setdefault((slot.group, slot.block), slot.cell.endswith("b"))
    follows = [first[group, block] == first[group, block + 1] for group, block in first if block < 50]
    # 2,000 coins: four standard deviations.
    assert 0.45 < sum(first.values()) / len(first) < 0.55
    assert 0.45 < sum(follows) / len(follows) < 0.55


def test_three_nodes_take_all_six_orders():
    slots = measuring_order([(f"n{node}", "g") for node in range(3)], 60, 0, traced=False)
    orders = Counter(tuple(slot.cell for slot in slots if slot.block == block) for block in range(1, 61))
    assert len(orders) == 6


def test_longer_study_begins_with_the_shorter_one():
    assert measuring_order(PAIRS, 20, 7, traced=False)[:60] == measuring_order(PAIRS, 6, 7, traced=False)


def test_blocks_and_seeds_give_different_orders():
    slots = measuring_order(PAIRS, 6, 7, traced=False)
    orders = {tuple(s.group for s in slots if s.block == block) for block in range(1, 7)}
    assert len(orders) > 3
    assert [s.cell for s in slots] != [s.cell for s in measuring_order(PAIRS, 6, 8, traced=False)]


def test_order_does_not_depend_on_the_hash_seed():
    code = f"from bench.study.order import measuring_order as m;print([s.cell for s in m({PAIRS!r}, 3, 42)])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{[s.cell for s in measuring_order(PAIRS, 3, 42)]}\n"}


def test_order_of_a_seed_never_changes():
    """Run directories store positions: a change of the algorithm would mix two orders in one study."""
    slots = measuring_order([("a0", "a"), ("a2", "a"), ("b0", "b"), ("b2", "b")], 2, 0)
    assert " ".join(slot.cell for slot in slots) == FROZEN


FROZEN = "a2 a0 b2 b0 a2 a0 b0 b2 a0 a2 b2 b0"


def test_cell_named_twice_is_refused():
    with pytest.raises(StudyError, match="'x' is listed twice"):
        measuring_order([("x", "g"), ("x", "h")], 1, 0)


def test_negative_repeats_are_refused():
    with pytest.raises(StudyError, match="repeats is -1"):
        measuring_order([("x", "g")], -1, 0)
