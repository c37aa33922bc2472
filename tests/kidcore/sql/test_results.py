"""Result comparisons against plain definitions by brute force, and on results made to be slow."""

import itertools
import random
import time
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.sql.results import is_vacuous, same_bag, same_set

Row = tuple[object, ...]
VALUES = st.sampled_from([0, 1, 2, 1.0, "1", "", None, b"1"])


def tables(columns: int, max_rows: int = 5) -> st.SearchStrategy[list[Row]]:
    return st.lists(st.tuples(*[VALUES] * columns), max_size=max_rows)


def plain_same_bag(gold: list[Row], pred: list[Row], ordered: bool) -> bool:
    """By the definition: some order of the columns makes the rows equal, as a list or as a bag."""
    if not gold or not pred:
        return not gold and not pred
    if len(gold[0]) != len(pred[0]):
        return False
    for order in itertools.permutations(range(len(gold[0]))):
        turned = [tuple(row[column] for column in order) for row in pred]
        if gold == turned if ordered else Counter(gold) == Counter(turned):
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.tuples(tables(n), tables(n))), st.booleans())
def test_same_bag_is_its_definition(pair: tuple[list[Row], list[Row]], ordered: bool) -> None:
    gold, pred = pair
    assert same_bag(gold, pred, ordered) == plain_same_bag(gold, pred, ordered)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5).flatmap(lambda n: st.tuples(tables(n, 8), st.permutations(range(n)), st.randoms())), st.booleans())
def test_columns_and_rows_moved_about_are_the_same_bag(case: tuple[list[Row], list[int], random.Random], spoil: bool) -> None:
    gold, order, shuffler = case
    pred = [tuple(row[column] for column in order) for row in gold]
    shuffler.shuffle(pred)
    if spoil and pred:
        pred[0] = tuple(reversed(pred[0]))
    assert same_bag(gold, pred, ordered=False) == plain_same_bag(gold, pred, ordered=False)
    assert spoil or same_bag(gold, pred, ordered=False)


def test_different_widths_and_lengths_differ() -> None:
    assert not same_bag([(1,)], [(1, 1)], ordered=False)
    assert not same_bag([(1,)], [(1,), (1,)], ordered=False)
    assert same_bag([], [], ordered=True)
    assert not same_bag([], [(None,)], ordered=False)


def test_many_equal_columns_do_not_hang() -> None:
    started = time.process_time()
    same = [(number,) * 26 for number in range(200)]
    assert same_bag(same, list(reversed(same)), ordered=False)
    assert not same_bag(same, [*reversed(same[1:]), (0,) * 25 + (1,)], ordered=False)
    twins = [tuple((row + column) % 26 for column in range(26)) for row in range(26)]
    assert not same_bag(twins, [*twins[1:], tuple(reversed(twins[0]))], ordered=False)
    assert time.process_time() - started < 20, "trying all orders would take years"


def test_a_wide_shuffled_table_is_found() -> None:
    source = random.Random(0)
    gold = [tuple(source.randrange(3) for _ in range(26)) for _ in range(300)]
    order = source.sample(range(26), 26)
    pred = [tuple(row[column] for column in order) for row in gold]
    source.shuffle(pred)
    started = time.process_time()
    assert same_bag(gold, pred, ordered=False)
    assert time.process_time() - started < 20, "trying all orders would take years"


def test_same_set_ignores_repeats_and_row_order_not_columns() -> None:
    assert same_set([(1, 2), (3, 4), (1, 2)], [(3, 4), (1, 2)])
    assert not same_set([(1, 2)], [(2, 1)])
    assert same_set([(1,)], [(1.0,)])


def test_vacuous_results() -> None:
    assert all(is_vacuous(rows) for rows in ([], [(0,)], [(None, 0)], [(0.0,)]))
    assert not any(is_vacuous(rows) for rows in ([(1,)], [(0,), (0,)], [("",)], [("0",)]))
