"""Gold and predicted SQL and a schema in, exact set match as the official evaluator gives it out.

For comparison with published numbers only (`eval.exact_match = "official"`): what it reads is in `official_reader`. A prediction
that it can't read is compared as a query without a single clause, as there.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eval.names import Names
from eval.spider.grammar import ParseError
from eval.spider.official_reader import ColumnUnit, Condition, OfficialQuery, OfficialReader, ValueUnit, official_tokens


class OfficialMatcher:
    """Compares predictions with golds on one schema; a gold is read once."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._golds: dict[str, OfficialQuery | None] = {}

    def __call__(self, gold_sql: str, pred_sql: str) -> bool | None:
        """The official verdict; None where the official parser can't read the gold."""
        if gold_sql not in self._golds:
            self._golds[gold_sql] = self._read(gold_sql)
        gold = self._golds[gold_sql]
        return None if gold is None else _same(self._read(pred_sql) or OfficialQuery(), gold)

    def reads(self, sql: str) -> bool:
        """Whether the official parser doesn't give up on `sql`."""
        return self._read(sql) is not None

    def _read(self, sql: str) -> OfficialQuery | None:
        try:
            tokens = official_tokens(sql)
            query = OfficialReader(tokens, self._names).query(0)[1]
        except (ParseError, LookupError, ValueError, RecursionError):
            return None
        query = _without_values(query)
        tables = {source for source in query.sources if isinstance(source, str)}
        return _linked(query, lambda unit: self._link(unit, tables))

    def _link(self, unit: ColumnUnit, tables: set[str]) -> ColumnUnit:
        """The unit without DISTINCT, its column replaced by the one that stands for all linked with it."""
        aggregate, column, _distinct = unit
        known = column in self._names.same and column.partition(".")[0] in tables
        return aggregate, self._names.same[column] if known else column, False


def _without_values(query: OfficialQuery) -> OfficialQuery:
    """Without the values of conditions; those of subqueries in FROM stay."""

    def bare(conditions: Condition) -> Condition:
        return [item if isinstance(item, str) else (*item[:3], dropped(item[3]), dropped(item[4])) for item in conditions]

    def dropped(value: Any) -> Any:
        return _without_values(value) if isinstance(value, OfficialQuery) else None

    return replace(
        query,
        joins=bare(query.joins),
        where=bare(query.where),
        having=bare(query.having),
        other=query.other and _without_values(query.other),
    )


def _linked(query: OfficialQuery, link: Callable[[ColumnUnit], ColumnUnit]) -> OfficialQuery:
    """With `link` applied to the columns of each SELECT joined by set operations, not to those of subqueries."""

    def unit(value: ValueUnit) -> ValueUnit:
        operator, left, right = value
        return operator, link(left), right and link(right)

    def linked(conditions: Condition) -> Condition:
        return [item if isinstance(item, str) else (*item[:2], unit(item[2]), *item[3:]) for item in conditions]

    return replace(
        query,
        distinct=None,
        select=tuple((aggregate, unit(value)) for aggregate, value in query.select),
        joins=linked(query.joins),
        where=linked(query.where),
        having=linked(query.having),
        group=tuple(map(link, query.group)),
        order=tuple(map(unit, query.order)),
        other=query.other and _linked(query.other, link),
    )


def _same(pred: OfficialQuery, gold: OfficialQuery) -> bool:
    """Whether each clause is the same; the order of select items, of conditions and of tables does not count."""
    if not (_same_items(pred.select, gold.select) and _same_items(pred.where[::2], gold.where[::2])):
        return False
    if set(pred.where[1::2]) != set(gold.where[1::2]) or _keywords(pred) != _keywords(gold):
        return False
    if not _same_items(
        [unit[1].partition(".")[2] or unit[1] for unit in pred.group],
        [unit[1].partition(".")[2] or unit[1] for unit in gold.group],
    ):
        return False
    if gold.group and ([u[1] for u in pred.group] != [u[1] for u in gold.group] or pred.having != gold.having):
        return False
    if gold.order and (pred.direction, pred.order, pred.limit) != (gold.direction, gold.order, gold.limit):
        return False
    if (pred.operation, pred.other is None) != (gold.operation, gold.other is None):
        return False
    if pred.other is not None and gold.other is not None and not _same(pred.other, gold.other):
        return False
    return not gold.sources or _same_items(pred.sources, gold.sources)


def _same_items(pred: Any, gold: Any) -> bool:
    """Whether two lists have the same items, in any order; items need not be hashable."""
    rest = list(gold)
    for item in pred:
        if item not in rest:
            return False
        rest.remove(item)
    return not rest


def _keywords(query: OfficialQuery) -> set[str]:
    conditions = [item for part in (query.joins, query.where, query.having) for item in part[::2]]
    connectors = [word for part in (query.joins, query.where, query.having) for word in part[1::2]]
    clauses = {"where": query.where, "group": query.group, "having": query.having, "limit": query.limit}
    words = {name for name, clause in clauses.items() if clause}
    words |= {"order", query.direction} if query.order else set()
    words |= {query.operation} if query.operation else set()
    words |= {"or"} if "or" in connectors else set()
    words |= {"not"} if any(item[0] for item in conditions) else set()
    return words | {item[1] for item in conditions if item[1] in ("in", "like")}
