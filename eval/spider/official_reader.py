"""SQL text and a schema in, the clauses that the official exact set match sees in it out, its misreadings included.

It reads English tokens, forgives what it doesn't understand and gives up on much that is SQL; docs/evaluation.md has the list.
Its verdict, and whether it gives up, are the same on all 6,060 stored rows (`python -m bench.verdict_parity`).
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from eval.names import Names
from eval.spider.grammar import AGGREGATES, ARITHMETIC, SET_OPERATIONS, ParseError

ColumnUnit: TypeAlias = tuple[str, str, bool]
"""Aggregate, column id, DISTINCT."""
ValueUnit: TypeAlias = tuple[str, ColumnUnit, ColumnUnit | None]
Condition: TypeAlias = list[Any]
"""(negated, operator, value unit, value, second value) at even places, AND and OR between."""

_ENDS = frozenset({"select", "from", "where", "group", "order", "limit", *SET_OPERATIONS})
_JOINS = frozenset({"join", "on", "as"})
_OPERATORS = frozenset({"not", "between", "=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "exists"})
_CLOSERS = frozenset({")", ";"})
_EVERY = "*"

# Where the official evaluator's tokenizer (nltk's, made for English) puts spaces: there, and nowhere else, tokens end.
_SPACED = (
    (re.compile(r"([«“‘„]|`+)"), r" \1 "),
    (re.compile(r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$"), r"\1 \2 \3 "),
    (re.compile(r"([:,])([^\d])"), r" \1 \2"),
    (re.compile(r"([:,])$"), r" \1 "),
    (re.compile(r"\.{2,}|[;@#$%&]|[?!]|\*|[\[\](){}<>]|--"), r" \g<0> "),
    (re.compile(r"[»”’]"), r" \g<0> "),
)


@dataclass(frozen=True)
class OfficialQuery:
    """One SELECT, in lists that keep the order written; compared by == where it is nested."""

    distinct: bool | None = False
    select: tuple[tuple[str, ValueUnit], ...] = ()
    sources: tuple[Any, ...] = ()
    """Table names, and queries."""
    joins: Condition = field(default_factory=list)
    where: Condition = field(default_factory=list)
    group: tuple[ColumnUnit, ...] = ()
    having: Condition = field(default_factory=list)
    direction: str = ""
    order: tuple[ValueUnit, ...] = ()
    limit: bool = False
    operation: str = ""
    other: "OfficialQuery | None" = None


def official_tokens(sql: str) -> list[str]:
    """The tokens that the official evaluator sees: both quotes are one, and space alone ends most of them."""
    sql = sql.replace("'", '"')
    places = [at for at, char in enumerate(sql) if char == '"']
    if len(places) % 2:
        raise ParseError("an odd number of quotes")
    values: dict[str, str] = {}
    for first, last in reversed(list(zip(places[::2], places[1::2], strict=True))):
        name = f"__val_{first}_{last}__"
        values[name] = sql[first : last + 1]
        sql = sql[:first] + name + sql[last + 1 :]
    for pattern, spaced in _SPACED:
        sql = pattern.sub(spaced, sql)
    tokens = [values.get(word, word) for word in sql.lower().split()]
    for at in range(len(tokens) - 1, 0, -1):
        if tokens[at] == "=" and tokens[at - 1] in ("!", ">", "<"):
            tokens[at - 1 : at + 1] = [tokens[at - 1] + "="]
    return tokens


class OfficialReader:
    """Reads tokens as the official parser does; each method takes a place and returns the one after what it read."""

    def __init__(self, tokens: list[str], names: Names, tables: dict[str, str] | None = None) -> None:
        self._tokens = tokens
        self._names = names
        if tables is None:
            # An alias holds for the whole text: one that is used twice means the last table that it was given to.
            tables = {tokens[at + 1]: tokens[at - 1] for at, token in enumerate(tokens) if token == "as"}
            _need(not tables.keys() & names.columns.keys())
            tables |= {table: table for table in names.columns}
        self._tables = tables

    def query(self, at: int) -> tuple[int, OfficialQuery]:
        start = at
        block = self._tokens[at] == "("
        after, sources, joins, defaults = self._from(start)
        _at, distinct, select = self._select(at + block, defaults)
        at, where = self._clause("where", after, defaults)
        at, group = self._group(at, defaults)
        at, having = self._clause("having", at, defaults)
        at, direction, order = self._order(at, defaults)
        limit = self._peek(at) == "limit"
        if limit:
            self._tokens[at + 1]  # what it says is not read, but it must be there
            at += 2
        at = self._after_semicolons(at)
        if block:
            _need(self._tokens[at] == ")")
            at = self._after_semicolons(at + 1)
        query = OfficialQuery(distinct, select, sources, joins, where, group, having, direction, order, limit)
        if (operation := self._peek(at)) in SET_OPERATIONS:
            at, other = self.query(at + 1)
            query = replace(query, operation=operation, other=other)
        return at, query

    def _peek(self, at: int) -> str:
        return self._tokens[at] if at < len(self._tokens) else ""

    def _after_semicolons(self, at: int) -> int:
        while self._peek(at) == ";":
            at += 1
        return at

    def _from(self, start: int) -> tuple[int, tuple[Any, ...], Condition, list[str]]:
        at = self._tokens.index("from", start) + 1
        sources: list[Any] = []
        joins: Condition = []
        defaults: list[str] = []
        while at < len(self._tokens):
            block = self._tokens[at] == "("
            at += block
            if self._tokens[at] == "select":
                at, query = self.query(at)
                sources.append(query)
            else:
                at += self._tokens[at] == "join"
                table = self._tables[self._tokens[at]]
                at += 3 if self._peek(at + 1) == "as" else 1
                _need(table in self._names.columns)
                sources.append(table)
                defaults.append(table)
            if self._peek(at) == "on":
                at, conditions = self._condition(at + 1, defaults)
                joins += (["and"] if joins else []) + conditions
            if block:
                _need(self._tokens[at] == ")")
                at += 1
            if self._peek(at) in _ENDS | _CLOSERS:
                break
        return at, tuple(sources), joins, defaults

    def _select(self, at: int, defaults: list[str]) -> tuple[int, bool, tuple[tuple[str, ValueUnit], ...]]:
        _need(self._tokens[at] == "select")
        at += 1
        distinct = self._peek(at) == "distinct"
        at += distinct
        items = []
        while at < len(self._tokens) and self._tokens[at] not in _ENDS:
            aggregate = self._tokens[at] if self._tokens[at] in AGGREGATES else ""
            at, unit = self._value_unit(at + bool(aggregate), defaults)
            items.append((aggregate, unit))
            at += self._peek(at) == ","
        return at, distinct, tuple(items)

    def _clause(self, word: str, at: int, defaults: list[str]) -> tuple[int, Condition]:
        return self._condition(at + 1, defaults) if self._peek(at) == word else (at, [])

    def _group(self, at: int, defaults: list[str]) -> tuple[int, tuple[ColumnUnit, ...]]:
        if self._peek(at) != "group":
            return at, ()
        _need(self._tokens[at + 1] == "by")
        at += 2
        units = []
        while at < len(self._tokens) and self._tokens[at] not in _ENDS | _CLOSERS:
            at, unit = self._column_unit(at, defaults)
            units.append(unit)
            if self._peek(at) != ",":
                break
            at += 1
        return at, tuple(units)

    def _order(self, at: int, defaults: list[str]) -> tuple[int, str, tuple[ValueUnit, ...]]:
        if self._peek(at) != "order":
            return at, "", ()
        _need(self._tokens[at + 1] == "by")
        at += 2
        units, direction = [], "asc"
        while at < len(self._tokens) and self._tokens[at] not in _ENDS | _CLOSERS:
            at, unit = self._value_unit(at, defaults)
            units.append(unit)
            if self._peek(at) in ("asc", "desc"):
                direction = self._tokens[at]  # one for all: the last that is written
                at += 1
            if self._peek(at) != ",":
                break
            at += 1
        return at, direction, tuple(units)

    def _condition(self, at: int, defaults: list[str]) -> tuple[int, Condition]:
        found: Condition = []
        while at < len(self._tokens):
            at, unit = self._value_unit(at, defaults)
            negated = self._tokens[at] == "not"
            at += negated
            operator = self._tokens[at]
            _need(operator in _OPERATORS)
            at, value = self._value(at + 1, defaults)
            second = None
            if operator == "between":
                _need(self._tokens[at] == "and")
                at, second = self._value(at + 1, defaults)
            found.append((negated, operator, unit, value, second))
            if self._peek(at) in _ENDS | _CLOSERS | _JOINS:
                break
            if self._peek(at) in ("and", "or"):
                found.append(self._tokens[at])
                at += 1
        return at, found

    def _value(self, at: int, defaults: list[str]) -> tuple[int, Any]:
        start = at
        block = self._tokens[at] == "("
        at += block
        value: Any
        token = self._tokens[at]
        if token == "select":
            at, value = self.query(at)
        elif '"' in token:
            at, value = at + 1, token
        else:
            try:
                value = float(token)
                at += 1
            except ValueError:
                # Up to the next word that it knows, of which OR and LEFT are none: they vanish with what follows them.
                while self._peek(at) and self._tokens[at] not in _ENDS | _JOINS and self._tokens[at] not in (",", ")", "and"):
                    at += 1
                value = OfficialReader(self._tokens[start:at], self._names, self._tables)._column_unit(0, defaults)[1]
        if block:
            _need(self._tokens[at] == ")")
            at += 1
        return at, value

    def _value_unit(self, at: int, defaults: list[str]) -> tuple[int, ValueUnit]:
        block = self._tokens[at] == "("
        at, left = self._column_unit(at + block, defaults)
        operator, right = "", None
        if self._peek(at) in ARITHMETIC:
            operator = self._tokens[at]
            at, right = self._column_unit(at + 1, defaults)
        if block:
            _need(self._tokens[at] == ")")
            at += 1
        return at, (operator, left, right)

    def _column_unit(self, at: int, defaults: list[str]) -> tuple[int, ColumnUnit]:
        block = self._tokens[at] == "("
        at += block
        aggregate = self._tokens[at] if self._tokens[at] in AGGREGATES else ""
        if aggregate:
            _need(self._tokens[at + 1] == "(")
            at += 2
        distinct = self._tokens[at] == "distinct"
        at += distinct
        column = self._column(self._tokens[at], defaults)
        at += 1
        if aggregate or block:  # of two parentheses one is left open
            _need(self._tokens[at] == ")")
            at += 1
        return at, (aggregate, column, distinct)

    def _column(self, token: str, defaults: list[str]) -> str:
        if token == _EVERY:
            return _EVERY
        if "." in token:
            alias, column = token.split(".")
            table = self._tables[alias]  # whether or not FROM names it
            _need(column in self._names.columns[table])
            return f"{table}.{column}"
        table = next((table for table in defaults if token in self._names.columns[table]), "")
        _need(bool(table))
        return f"{table}.{token}"


def _need(holds: bool) -> None:
    if not holds:
        raise ParseError("the official parser gives up")
