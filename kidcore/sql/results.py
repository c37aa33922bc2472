"""Two query results in (lists of rows), whether they are the same by a named definition out; pure functions.

Values are the same where Python says so: 1 = 1.0, '1' is not 1, floats exactly, NULL equals NULL.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

Rows = Sequence[tuple[Any, ...]]

_SEARCH_LIMIT = 2_000
"""Comparisons of partial rows before the search for a column order gives up; real queries need some tens."""


def same_set(gold_rows: Rows, pred_rows: Rows) -> bool:
    """BIRD's execution accuracy: the same set of rows, columns in the same order, repeats and row order aside."""
    return set(gold_rows) == set(pred_rows)


def same_bag(gold_rows: Rows, pred_rows: Rows, ordered: bool) -> bool:
    """The test suite's execution accuracy: the same rows as often, for some order of the columns.

    Args:
        gold_rows: the gold query's result.
        pred_rows: the prediction's result.
        ordered: whether the order of rows counts.
    """
    if len(gold_rows) != len(pred_rows):
        return False
    if not gold_rows:
        return True
    if len(gold_rows[0]) != len(pred_rows[0]):
        return False
    if list(gold_rows) == list(pred_rows):
        return True
    gold = list(zip(*gold_rows, strict=True))
    pred = list(zip(*pred_rows, strict=True))
    if ordered:
        # With rows fixed, an order of columns exists exactly where the two bags of columns are the same.
        return Counter(gold) == Counter(pred)
    if Counter(gold_rows) == Counter(pred_rows):
        return True
    return _ColumnSearch(gold, pred).succeeds()


def is_vacuous(rows: Rows) -> bool:
    """Whether wrong SQL may well give the same: nothing, or a single row of zeros and NULLs."""
    return not rows or (len(rows) == 1 and all(value is None or value == 0 for value in rows[0]))


class _ColumnSearch:
    """Looks for an order of the prediction's columns that gives the gold's bag of rows, depth first.

    A partial order is followed only while the rows cut to it agree as bags; of columns that are identical all the way
    down only one is tried. Hostile results could still make it long, hence a limit, after which the answer is no.
    """

    def __init__(self, gold: list[tuple[Any, ...]], pred: list[tuple[Any, ...]]) -> None:
        self._gold = gold
        self._pred = pred
        self._comparisons = 0
        colours: dict[Hashable, int] = {}
        gold_colours = _column_colours(gold, colours)
        pred_colours = _column_colours(pred, colours)
        self._candidates = [[column for column, other in enumerate(pred_colours) if other == colour] for colour in gold_colours]
        self._agree = Counter(gold_colours) == Counter(pred_colours)
        # The columns with the fewest candidates first: they settle the most.
        self._order = sorted(range(len(gold)), key=lambda column: len(self._candidates[column]))

    def succeeds(self) -> bool:
        """Whether such an order was found."""
        start = [0] * len(self._gold[0])
        return self._agree and self._extend(0, start, list(start), set())

    def _extend(self, depth: int, gold_rows: list[int], pred_rows: list[int], used: set[int]) -> bool:
        """Rows cut to the columns placed so far are given as class numbers, one numbering for both results."""
        if depth == len(self._order):
            return True
        numbers: dict[Hashable, int] = {}
        column = self._gold[self._order[depth]]
        next_gold = [numbers.setdefault(pair, len(numbers)) for pair in zip(gold_rows, column, strict=True)]
        wanted = Counter(next_gold)
        tried: set[tuple[Any, ...]] = set()
        for candidate in self._candidates[self._order[depth]]:
            values = self._pred[candidate]
            if candidate in used or values in tried:
                continue
            tried.add(values)
            self._comparisons += 1
            if self._comparisons > _SEARCH_LIMIT:
                return False
            next_pred = [numbers.get(pair, -1) for pair in zip(pred_rows, values, strict=True)]
            if Counter(next_pred) == wanted and self._extend(depth + 1, next_gold, next_pred, used | {candidate}):
                return True
        return False


def _column_colours(columns: list[tuple[Any, ...]], colours: dict[Hashable, int]) -> list[int]:
    """A number for each column; columns that may be matched have the same.

    A column's colour is the bag of its values, each seen together with the bag of its row, which tells columns of equal
    values apart where their rows differ. Numbering through `colours` makes two results comparable.
    """
    row_colours = [_number(colours, ("row", _bag(row))) for row in zip(*columns, strict=True)]
    return [_number(colours, ("column", _bag(zip(column, row_colours, strict=True)))) for column in columns]


def _bag(values: Iterable[Hashable]) -> frozenset[tuple[Hashable, int]]:
    return frozenset(Counter(values).items())


def _number(numbers: dict[Hashable, int], key: Hashable) -> int:
    return numbers.setdefault(key, len(numbers))
