"""SQL text in, its clauses in the form that Spider's exact set match and hardness are defined on out.

The grammar is Spider's: SELECT with joins, conditions in a flat AND/OR list, one set operation a level, aggregates over a
column or an arithmetic pair. What lies outside (outer joins, functions, CASE, parenthesised conditions) raises ParseError.
"""

from collections.abc import Callable
from typing import TypeVar

from eval.spider.clauses import (
    ColumnName,
    ColumnUnit,
    ConditionUnit,
    FromSource,
    Literal,
    ParsedQuery,
    SelectItem,
    Value,
    ValueUnit,
)
from kidcore.sql.lexer import Token, TokenKind, tokens

AGGREGATES = ("max", "min", "count", "sum", "avg")
ARITHMETIC = ("-", "+", "*", "/")
COMPARISONS = ("=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "between")
_SIMPLE_COMPARISONS = COMPARISONS[:6]
SET_OPERATIONS = ("intersect", "union", "except")
_SYNONYMS = {"==": "=", "<>": "!="}
_CLAUSES = ("from", "where", "group", "having", "order", "limit", *SET_OPERATIONS)
_NOT_ALIASES = {*_CLAUSES, "on", "join", "inner", "cross", "left", "right", "full", "natural", "using", "as", "select"}


_Item = TypeVar("_Item")
_DEEPEST = 40
"""Levels of subqueries read; hostile text would otherwise exhaust the stack."""


class ParseError(ValueError):
    """The text is not SQL of Spider's grammar."""


def parse(sql: str, complete: bool = True) -> ParsedQuery:
    """The query that `sql` is, or begins with where it need not be complete; raises ParseError."""
    solid = [token for token in tokens(sql) if token.kind is not TokenKind.SPACE]
    if solid and _is_unclosed(solid[-1]):
        raise ParseError("a quote is not closed")
    parser = _Parser(solid)
    query = parser.query()
    if complete:
        parser.end()
    return query


class _Parser:
    """Recursive descent over the tokens; one method a rule."""

    def __init__(self, solid: list[Token]) -> None:
        self._tokens = solid
        self._texts = [_normal(token) for token in solid]
        self._at = 0
        self._depth = 0

    def query(self) -> ParsedQuery:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ParseError("nested too deeply")
        query = self._query()
        self._depth -= 1
        return query

    def _query(self) -> ParsedQuery:
        block = self._take("(")
        query = ParsedQuery()
        self._need("select")
        query.distinct = self._take("distinct")
        query.select = self._list(self._select_item)
        self._need("from")
        self._from(query)
        if self._take("where"):
            query.where, query.where_connectors = self._conditions()
        if self._take("group"):
            self._need("by")
            query.group = self._list(self._column_unit)
        if self._take("having"):
            query.having, query.having_connectors = self._conditions()
        if self._take("order"):
            self._need("by")
            query.order = self._list(self._order_item)
        if self._take("limit"):
            query.limit = True
            if self._next().kind is not TokenKind.NUMBER:
                raise ParseError("LIMIT without a number")
        self._set_operation(query)
        if block:
            self._need(")")
            self._set_operation(query)
        return query

    def _set_operation(self, query: ParsedQuery) -> None:
        """`(A) EXCEPT B` and `(A EXCEPT B)` are both written."""
        if self._peek() in SET_OPERATIONS:
            if query.other is not None:
                raise ParseError("two set operations on one level")
            query.set_operation = self._next().text.lower()
            query.other = self.query()

    def end(self) -> None:
        while self._take(";"):
            pass
        if self._at < len(self._tokens):
            raise ParseError(f"unexpected {self._tokens[self._at].text}")

    def _select_item(self) -> SelectItem:
        start = self._at
        if self._peek() in AGGREGATES and self._peek(1) == "(":
            aggregate = self._next().text.lower()
            unit = self._value_unit()
            if self._peek() not in ARITHMETIC:
                self._item_alias()
                return SelectItem(aggregate, unit)
            self._at = start  # an arithmetic pair of aggregates
        unit = self._value_unit()
        self._item_alias()
        return SelectItem("", unit)

    def _item_alias(self) -> None:
        if self._take("as"):
            self._name()

    def _from(self, query: ParsedQuery) -> None:
        while True:
            query.sources.append(self._source())
            if self._take("on"):
                conditions, connectors = self._conditions()
                if query.join:
                    query.join_connectors.append("and")
                query.join += conditions
                query.join_connectors += connectors
            if self._take(","):
                continue
            if self._peek() in ("inner", "cross") and self._peek(1) == "join":
                self._at += 1
            if not self._take("join"):
                return

    def _source(self) -> FromSource:
        table: str | ParsedQuery
        if self._peek() == "(":
            self._at += 1
            table = self.query()
            self._need(")")
        else:
            table = self._name()
        alias = ""
        if self._take("as") or (self._is_name() and self._peek() not in _NOT_ALIASES):
            alias = self._name()
        return FromSource(table, alias)

    def _conditions(self) -> tuple[list[ConditionUnit], list[str]]:
        conditions = [self._condition()]
        connectors: list[str] = []
        while self._peek() in ("and", "or"):
            connectors.append(self._next().text.lower())
            conditions.append(self._condition())
        return conditions, connectors

    def _condition(self) -> ConditionUnit:
        left = self._value_unit()
        negated = self._take("not")
        operator = _SYNONYMS.get(self._peek(), self._peek())
        if operator not in COMPARISONS:
            raise ParseError(f"not a comparison: {operator}")
        self._at += 1
        value = self._value()
        second: Value = None
        if operator == "between":
            self._need("and")
            second = self._value()
        return ConditionUnit(negated, operator, left, value, second)

    def _value(self) -> Value:
        if self._peek() == "(" and self._peek(1) in ("select", "("):
            # The set operation after the parenthesis is the outer query's.
            self._need("(")
            query = self.query()
            self._need(")")
            return query
        block = self._take("(")
        value = self._simple_value()
        while block and self._take(","):
            self._simple_value()
        if block:
            self._need(")")
        return value

    def _simple_value(self) -> Value:
        if self._take("null") or (self._peek() == "not" and self._peek(1) == "null"):
            negated = self._take("not") and self._take("null")
            return Literal("not null" if negated else "null")
        sign = "-" if self._take("-") else ""
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        if token is not None and (token.kind in (TokenKind.TEXT, TokenKind.NUMBER) or token.text.startswith('"')):
            self._at += 1
            return Literal(sign + token.text)
        left = self._column_unit()
        if self._peek() not in ARITHMETIC:
            return left
        operator = self._next().text
        is_number = self._at < len(self._tokens) and self._tokens[self._at].kind is TokenKind.NUMBER
        return ValueUnit(operator, left, self._column_unit()) if not is_number else Literal(self._next().text)

    def _order_item(self) -> tuple[ValueUnit, str]:
        unit = self._value_unit()
        if not unit.operator and self._peek() in _SIMPLE_COMPARISONS:  # ORDER BY COUNT(*) >= 5
            unit = ValueUnit(self._next().text, unit.left, None)
            self._simple_value()
        direction = self._next().text.lower() if self._peek() in ("asc", "desc") else "asc"
        return unit, direction

    def _value_unit(self) -> ValueUnit:
        block = self._take("(")
        left = self._column_unit()
        operator, right = "", None
        if self._peek() in ARITHMETIC:
            operator = self._next().text
            right = self._column_unit()
        if block:
            self._need(")")
        return ValueUnit(operator, left, right)

    def _column_unit(self) -> ColumnUnit:
        block = self._take("(")
        aggregate = ""
        if self._peek() in AGGREGATES and self._peek(1) == "(":
            aggregate = self._next().text.lower()
            self._need("(")
        distinct = self._take("distinct")
        inner = aggregate == "" and self._take("(")
        column = self._column()
        for _ in range(block + bool(aggregate) + inner):
            self._need(")")
        return ColumnUnit(aggregate, column, distinct)

    def _column(self) -> ColumnName:
        if self._take("*"):
            return ColumnName("", "*")
        name = self._name()
        if self._take("."):
            return ColumnName(name, "*" if self._take("*") else self._name())
        return ColumnName("", name)

    def _list(self, rule: Callable[[], _Item]) -> list[_Item]:
        items = [rule()]
        while self._take(","):
            items.append(rule())
        return items

    def _is_name(self) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at].kind in (TokenKind.WORD, TokenKind.QUOTED)

    def _name(self) -> str:
        if not self._is_name() or self._peek() in _CLAUSES:
            raise ParseError(f"a name is missing before {self._peek() or 'the end'}")
        return _bare(self._next())

    def _peek(self, ahead: int = 0) -> str:
        """The next token's normal form: keywords and symbols; empty at the end."""
        at = self._at + ahead
        return self._texts[at] if at < len(self._texts) else ""

    def _next(self) -> Token:
        if self._at >= len(self._tokens):
            raise ParseError("ends too soon")
        self._at += 1
        return self._tokens[self._at - 1]

    def _take(self, text: str) -> bool:
        if self._peek() != text:
            return False
        self._at += 1
        return True

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise ParseError(f"{text} is missing before {self._peek() or 'the end'}")


def _is_unclosed(token: Token) -> bool:
    if token.kind not in (TokenKind.TEXT, TokenKind.QUOTED):
        return False
    opening = token.text.lstrip("xX")[0]
    closing = "]" if opening == "[" else opening
    return token.text.count(opening) % 2 == 1 if opening == closing else not token.text.endswith(closing)


def _normal(token: Token) -> str:
    """Words in lower case; quoted text never equals a keyword."""
    return token.text.lower() if token.kind in (TokenKind.WORD, TokenKind.SYMBOL) else token.text


def _bare(token: Token) -> str:
    """A name without its quotes, in lower case."""
    text = token.text[1:-1] if token.kind is TokenKind.QUOTED else token.text
    return text.lower()
