"""The order of examples: decided by texts alone, whole in every epoch, and shares that are what they are called."""

from collections import defaultdict
from itertools import compress, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.sampler import ORDER_VERSION, are_held_out, group_order, hashed, is_drawn, part_order

PAIRS = st.lists(st.tuples(st.text(max_size=4), st.sampled_from(["a", "b", "日"])), max_size=30, unique_by=lambda pair: pair[0])


@settings(max_examples=60, deadline=None)
@given(pairs=PAIRS, size=st.integers(1, 5), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_an_epoch_is_all_examples_once_in_groups_of_one_database(
    pairs: list[tuple[str, str]], size: int, seed: int, epoch: int
) -> None:
    order = group_order(pairs, size, seed, epoch)
    assert sorted(order) == sorted(example_id for example_id, _db in pairs)
    assert group_order(pairs[::-1], size, seed, epoch) == order, "the order that shards happen to have plays no part"
    home = dict(pairs)
    counts: dict[str, int] = defaultdict(int)
    # Whole groups but for one of each database: so often the database changes at most.
    for example_id in order:
        counts[home[example_id]] += 1
    groups = sum(-(-count // size) for count in counts.values())
    changes = sum(home[a] != home[b] for a, b in pairwise(order))
    assert changes <= max(0, groups - 1)


def test_another_seed_or_epoch_is_another_order() -> None:
    pairs = [(str(number), "d") for number in range(40)]
    orders = {tuple(group_order(pairs, 3, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
    assert len({tuple(part_order(range(12), seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert sorted(part_order([5, 3, 9], 0, 0)) == [3, 5, 9]
    assert part_order([5, 3, 9], 0, 0) == part_order([9, 5, 3], 0, 0)
    assert group_order([], 3, 0, 0) == part_order([], 0, 0) == []


def test_the_order_of_a_version_never_moves() -> None:
    """Runs that were begun are resumed in it; whoever changes it raises ORDER_VERSION."""
    pairs = [(f"train:{number}", f"db{number % 3}") for number in range(12)]
    assert ORDER_VERSION == 1
    assert hashed("holdout", 0, "train:1") == 5774984732174668879
    assert [int(name.partition(":")[2]) for name in group_order(pairs, 2, 0, 0)] == [3, 6, 1, 10, 11, 8, 4, 7, 2, 5, 0, 9]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_share_is_a_share_and_a_larger_one_holds_the_smaller(share: float) -> None:
    ids = [f"q{number}" for number in range(2000)]
    drawn = list(compress(ids, are_held_out(ids, share, 7)))
    assert abs(len(drawn) / 2000 - share) < 0.04
    more = set(compress(ids, are_held_out(ids, min(1.0, share + 0.1), 7)))
    assert set(drawn) <= more
    assert (len(drawn) == 0) is (share == 0)
    assert (len(drawn) == 2000) is (share == 1)


def test_draws_for_different_ends_do_not_go_together() -> None:
    ids = [f"q{number}" for number in range(2000)]
    both = sum(is_drawn(0.5, "gold", 0, name) and is_drawn(0.5, "imperfect", 0, name) for name in ids)
    assert 400 < both < 600
    assert hashed("ab", "c") != hashed("a", "bc"), "where one text ends belongs to what is hashed"
