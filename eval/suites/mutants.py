"""A gold query in; its neighbours (one small change each, most of them wrong) and the literals it compares columns with, out."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

import sqlglot
from sqlglot import expressions as exp
from sqlglot.errors import ErrorLevel, SqlglotError

_SWAPS: dict[type[exp.Expr], tuple[type[exp.Expr], ...]] = {
    exp.EQ: (exp.NEQ, exp.GTE),
    exp.NEQ: (exp.EQ,),
    exp.GT: (exp.GTE, exp.LT),
    exp.GTE: (exp.GT, exp.LTE),
    exp.LT: (exp.LTE, exp.GT),
    exp.LTE: (exp.LT, exp.GTE),
    exp.And: (exp.Or,),
    exp.Or: (exp.And,),
    exp.Max: (exp.Min,),
    exp.Min: (exp.Max,),
    exp.Sum: (exp.Avg,),
    exp.Avg: (exp.Sum, exp.Max),
    exp.Union: (exp.Intersect,),
    exp.Intersect: (exp.Union, exp.Except),
    exp.Except: (exp.Intersect,),
}


Change = Callable[[exp.Expr], exp.Expr]


def mutants(sql: str, dialect: str = "sqlite") -> list[str]:
    """Neighbours of `sql`, each once, in a fixed order; none where sqlglot can't read it."""
    tree = _parse(sql, dialect)
    if tree is None:
        return []
    original = tree.sql(dialect=dialect)
    found: dict[str, None] = {}
    for position, node in enumerate(tree.walk()):
        for change in _changes(node):
            copy = tree.copy()
            target = next(other for number, other in enumerate(copy.walk()) if number == position)
            changed = change(target)
            # What a dialect lacks (INTERSECT ALL) is written as it can be, and not spoken of: a mutant need not mean anything.
            text = (changed if target is copy else copy).sql(dialect=dialect, unsupported_level=ErrorLevel.IGNORE)
            if text != original:
                found[text] = None
    return list(found)


def literals(sql: str, dialect: str = "sqlite") -> dict[str, set[object]]:
    """Values by the lower-case name of the column they are compared with; under "" those of unknown columns."""
    tree = _parse(sql, dialect)
    result: dict[str, set[object]] = defaultdict(set)
    for node in () if tree is None else tree.walk():
        parent = node.parent
        value = _value(node)
        if isinstance(parent, exp.Neg) and isinstance(value, (int, float)):
            value, parent = -value, parent.parent
        if value is None or parent is None or isinstance(parent, (exp.Limit, exp.Offset)):
            continue
        column = next((other for other in parent.find_all(exp.Column) if other is not node and _value(other) is None), None)
        result[column.name.lower() if column is not None else ""].add(value)
    return dict(result)


def _parse(sql: str, dialect: str) -> exp.Expr | None:
    try:
        tree = sqlglot.parse_one(sql, read=dialect)
    except (SqlglotError, RecursionError):
        return None
    return tree if isinstance(tree, exp.Query) else None


def _value(node: exp.Expr) -> object:
    """The value of a literal, or of a double-quoted word, which benchmarks write for text; None for all else."""
    if isinstance(node, exp.Column) and not node.table and isinstance(node.this, exp.Identifier) and node.this.quoted:
        return node.name
    if not isinstance(node, exp.Literal):
        return None
    if node.is_string:
        return node.this
    # SQLite reads a whole number beyond its integers as a real.
    return number if node.this.isdigit() and (number := int(node.this)) < 2**63 else float(node.this)


def _changes(node: exp.Expr) -> Iterator[Change]:
    """What can be changed about `node`: functions that do it to a copy."""
    for other in _SWAPS.get(type(node), ()):
        yield partial(_replace, make=partial(_as_other, other=other))
    if isinstance(node, exp.Literal):
        yield from _literal_changes(node)
    if isinstance(node, exp.Ordered):
        yield _flip
    if isinstance(node, exp.Select):
        yield from _select_changes(node)
    if isinstance(node, exp.Join) and not node.side and _may_miss(node):
        yield partial(_set, key="side", value="LEFT")
    if isinstance(node, (exp.And, exp.Or)):
        yield partial(_replace, make=lambda target: target.args["this"].copy())
        yield partial(_replace, make=lambda target: target.args["expression"].copy())
    if isinstance(node, exp.Count) and isinstance(node.this, exp.Column):
        yield partial(_set, key="this", value=exp.Distinct(expressions=[node.this.copy()]))
    if isinstance(node, exp.Count) and isinstance(node.this, exp.Distinct):
        yield partial(_set, key="this", value=node.this.expressions[0].copy())


def _literal_changes(literal: exp.Literal) -> Iterator[Change]:
    if literal.is_string:
        yield partial(_replace, make=lambda target: exp.Literal.string(target.this + "x"))
        return
    for step in (1,) if isinstance(literal.parent, exp.Limit) else (1, -1):
        yield partial(_replace, make=partial(_moved, step=step))


def _select_changes(select: exp.Select) -> Iterator[Change]:
    if _may_repeat(select):
        yield partial(_set, key="distinct", value=None if select.args.get("distinct") else exp.Distinct())
    for clause in ("where", "having", "limit", "order"):
        if select.args.get(clause):
            yield partial(_set, key=clause, value=None)


def _may_repeat(select: exp.Select) -> bool:
    """Whether DISTINCT could change the result: groups, single aggregates, members of set operations and IN don't repeat."""
    aggregates = all(item.find(exp.AggFunc) for item in select.expressions)
    limit = select.args.get("limit")
    is_single = limit is not None and limit.expression.name == "1"
    is_member = isinstance(select.parent, (exp.SetOperation, exp.In)) or isinstance(select.find_ancestor(exp.In), exp.In)
    return not (select.args.get("group") or aggregates or is_single or is_member)


def _may_miss(join: exp.Join) -> bool:
    """Whether rows without a partner would show: a condition or a join that follows drops them again."""
    select = join.parent
    return isinstance(select, exp.Select) and not select.args.get("where") and select.args["joins"][-1] is join


def _replace(target: exp.Expr, make: Callable[[exp.Expr], exp.Expr]) -> exp.Expr:
    """Put something else in the target's place; returned too, for where the target is the whole query."""
    new = make(target)
    target.replace(new)
    return new


def _set(target: exp.Expr, key: str, value: object) -> exp.Expr:
    target.set(key, value.copy() if isinstance(value, exp.Expr) else value)
    return target


def _flip(target: exp.Expr) -> exp.Expr:
    is_descending = not target.args.get("desc")
    target.set("desc", is_descending)
    target.set("nulls_first", not is_descending)  # NULLs stay the smallest
    return target


def _as_other(target: exp.Expr, other: type[exp.Expr]) -> exp.Expr:
    return other(**target.args)


def _moved(target: exp.Expr, step: int) -> exp.Expr:
    return exp.Literal.number(str(float(target.this) + step).removesuffix(".0"))
