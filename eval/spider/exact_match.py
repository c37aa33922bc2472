"""Two SQL texts and a schema in, Spider's exact set match out; one SQL text in, Spider's hardness class out.

Exact set match compares clauses, not results: values, DISTINCT, join conditions and LIMIT's number do not count, the order of
select items and conditions does not either, and columns linked by foreign keys are one.
"""

import functools
from collections import Counter
from typing import Any, TypeAlias

from eval.names import Names
from eval.spider.clauses import ColumnName, ColumnUnit, ConditionUnit, ParsedQuery, Value, ValueUnit
from eval.spider.grammar import ParseError, parse

Key: TypeAlias = Any
"""A hashable that is equal for equal parts of two queries."""
HARDNESS = ("easy", "medium", "hard", "extra")
_EVERY_COLUMN = "*"


class ExactMatcher:
    """Compares predictions with golds on one schema; a gold is read once."""

    def __init__(self, names: Names) -> None:
        self._known = names
        self._golds: dict[str, Key] = {}

    def __call__(self, gold_sql: str, pred_sql: str) -> bool | None:
        """Whether the two have the same clauses, as sets; None where Spider's grammar can't read the gold.

        A prediction that it can't read never has.
        """
        if gold_sql not in self._golds:
            self._golds[gold_sql] = self._read(gold_sql)
        gold = self._golds[gold_sql]
        return None if gold is None else bool(gold == self._read(pred_sql))

    def _read(self, sql: str) -> Key:
        try:
            return _clauses(parse(sql), self._known)
        except ParseError:
            return None


@functools.lru_cache(maxsize=16_384)
def hardness(sql: str) -> str:
    """Spider's class of a gold query: easy, medium, hard, extra; empty where its grammar can't read it."""
    try:
        query = parse(sql, complete=False)
    except ParseError:
        return ""
    clauses, nested, others = _count_clauses(query), _count_nested(query), _count_others(query)
    if nested == 0:
        if clauses <= 1 and others == 0:
            return "easy"
        if (clauses <= 1 and others <= 2) or (clauses <= 2 and others < 2):
            return "medium"
        if (clauses <= 2 and others > 2) or (clauses == 3 and others <= 2):
            return "hard"
        return "extra"
    return "hard" if nested == 1 and clauses <= 1 and others == 0 else "extra"


def _count_clauses(query: ParsedQuery) -> int:
    conditions = [*query.join, *query.where, *query.having]
    connectors = [*query.join_connectors, *query.where_connectors, *query.having_connectors]
    return (
        sum(map(bool, (query.where, query.group, query.order, query.limit)))
        + len(query.sources)
        - 1
        + connectors.count("or")
        + sum(condition.operator == "like" for condition in conditions)
    )


def _count_nested(query: ParsedQuery) -> int:
    conditions = [*query.join, *query.where, *query.having]
    values = [value for condition in conditions for value in (condition.value, condition.second)]
    return sum(isinstance(value, ParsedQuery) for value in values) + (query.other is not None)


def _count_others(query: ParsedQuery) -> int:
    """Aggregates beyond one, select items, conditions and group columns beyond one; the aggregates as Spider counts them.

    Its evaluator looks for an aggregate where a condition says whether it is negated, and takes HAVING's AND and OR for
    aggregates. Published classes rest on that.
    """
    order_units = [unit for value, _direction in query.order for unit in (value.left, value.right) if unit]
    aggregates = (
        sum(bool(item.aggregate) for item in query.select)
        + sum(condition.negated for condition in query.where)
        + sum(bool(unit.aggregate) for unit in [*query.group, *order_units])
        + sum(condition.negated for condition in query.having)
        + len(query.having_connectors)
    )
    return (aggregates > 1) + (len(query.select) > 1) + (len(query.where) > 1) + (len(query.group) > 1)


def _clauses(query: ParsedQuery, names: Names, linked: frozenset[str] | None = None, outer: "_Scope | None" = None) -> Key:
    """What exact set match looks at, in a form that compares by ==.

    Columns linked by keys are one column where the outermost query names their table: those are `linked`.
    """
    scope = _Scope(query, names, outer)
    linked = frozenset(scope.tables) if linked is None else linked
    units = _Units(scope, names, linked, keep_distinct=False)
    for condition in query.join:
        units.condition(condition)  # not compared, but its columns must exist
    group = [units.column_unit(unit) for unit in query.group]
    return (
        Counter((item.aggregate, units.value_unit(item.unit)) for item in query.select),
        Counter(units.condition(condition) for condition in query.where),
        set(query.where_connectors),
        Counter(name.partition(".")[2] or name for _aggregate, name, _distinct in group),
        (group, _flat(query.having, query.having_connectors, units)) if group else None,
        _order(query, units),
        _keywords(query),
        (query.set_operation, None if query.other is None else _clauses(query.other, names, linked, scope)),
        Counter(_source(source.table, names, scope) for source in query.sources),
    )


def _order(query: ParsedQuery, units: "_Units") -> Key:
    if not query.order:
        return None
    return [(units.value_unit(unit), direction) for unit, direction in query.order], query.limit


def _keywords(query: ParsedQuery) -> set[str]:
    conditions = [*query.join, *query.where, *query.having]
    connectors = [*query.join_connectors, *query.where_connectors, *query.having_connectors]
    clauses = {"where": query.where, "group": query.group, "having": query.having, "order": query.order, "limit": query.limit}
    words = {name for name, clause in clauses.items() if clause}
    words |= {condition.operator for condition in conditions if condition.operator in ("in", "like")}
    words |= {"not"} if any(condition.negated for condition in conditions) else set()
    return words | ({"or"} if "or" in connectors else set())


def _source(table: "str | ParsedQuery", names: Names, scope: "_Scope") -> Key:
    return table if isinstance(table, str) else _nested(table, names, scope)


def _nested(query: ParsedQuery, names: Names, outer: "_Scope") -> Key:
    """A subquery in a condition or in FROM: compared clause by clause in the order written, DISTINCT included."""
    scope = _Scope(query, names, outer)
    units = _Units(scope, names, frozenset(), keep_distinct=True)
    return (
        query.distinct,
        tuple((item.aggregate, units.value_unit(item.unit)) for item in query.select),
        tuple(_source(source.table, names, scope) for source in query.sources),
        _flat(query.join, query.join_connectors, units),
        _flat(query.where, query.where_connectors, units),
        tuple(units.column_unit(unit) for unit in query.group),
        _flat(query.having, query.having_connectors, units),
        tuple((units.value_unit(unit), direction) for unit, direction in query.order),
        query.limit,
        query.set_operation,
        None if query.other is None else _nested(query.other, names, scope),
    )


def _flat(conditions: list[ConditionUnit], connectors: list[str], units: "_Units") -> Key:
    return tuple(units.condition(condition) for condition in conditions), tuple(connectors)


class _Scope:
    """The names that a query's FROM gives to tables, and the queries around it."""

    def __init__(self, query: ParsedQuery, names: Names, outer: "_Scope | None") -> None:
        self.tables = [source.table for source in query.sources if isinstance(source.table, str)]
        self._known = names
        self._outer = outer
        self._names: dict[str, str] = {}
        for source in query.sources:
            if isinstance(source.table, str):
                if source.table not in names.columns:
                    raise ParseError(f"no table {source.table}")
                self._names[source.table] = source.table
                if source.alias:
                    self._names[source.alias] = source.table

    def resolve(self, column: ColumnName) -> str:
        """`table.column` of a column as written; raises ParseError where there is none."""
        if column.name == _EVERY_COLUMN:
            return _EVERY_COLUMN
        if column.table:
            table = self._names.get(column.table)
            if table is not None and column.name in self._known.columns[table]:
                return f"{table}.{column.name}"
        else:
            for table in self.tables:
                if column.name in self._known.columns[table]:
                    return f"{table}.{column.name}"
        if self._outer is not None:
            return self._outer.resolve(column)
        raise ParseError(f"no column {column.name}")


class _Units:
    """Turns the parts of a query into keys, by the names of its scope."""

    def __init__(self, scope: _Scope, names: Names, linked: frozenset[str], keep_distinct: bool) -> None:
        self._scope = scope
        self._known = names
        self._linked = linked
        self._keep_distinct = keep_distinct

    def column_unit(self, unit: ColumnUnit) -> tuple[str, str, bool]:
        name = self._scope.resolve(unit.column)
        if name in self._known.same and name.partition(".")[0] in self._linked:
            name = self._known.same[name]
        return unit.aggregate, name, unit.distinct and self._keep_distinct

    def value_unit(self, unit: ValueUnit) -> Key:
        return unit.operator, self.column_unit(unit.left), None if unit.right is None else self.column_unit(unit.right)

    def condition(self, condition: ConditionUnit) -> Key:
        values = tuple(self._value(value) for value in (condition.value, condition.second))
        return condition.negated, condition.operator, self.value_unit(condition.left), values

    def _value(self, value: Value) -> Key:
        """Subqueries count, other values don't; but a column must exist."""
        if isinstance(value, ValueUnit):
            self.value_unit(value)
        elif isinstance(value, ColumnUnit):
            self._scope.resolve(value.column)
        return _nested(value, self._known, self._scope) if isinstance(value, ParsedQuery) else None
