"""A gold, a neighbour of it and a schema's keys in; whether the keys prove that the two always give the same result out.

Only three shapes are proved, each on conditions that every database with these keys meets. "No" means not proved.
"""

import sqlite3
from collections.abc import Container, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import sqlglot
from sqlglot import expressions as exp
from sqlglot.errors import SqlglotError


@dataclass(frozen=True)
class Keys:
    """What a schema promises, all names in lower case."""

    columns: dict[str, frozenset[str]]
    """By table."""
    primary: dict[str, frozenset[str]]
    """The primary key's columns by table; its values are taken to be present, as the standard has it."""
    present: frozenset[tuple[str, str]]
    """(table, column) that is never NULL."""
    references: frozenset[tuple[str, str, str, str]]
    """(table, column, referenced table, referenced column)."""


def read_keys(database: Path) -> Keys:
    """The keys that a SQLite database declares; what a log beside it holds is not read."""
    # Immutable: in WAL mode SQLite would write beside the file even to read it, and fail where it may not.
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL TABLE%'"
        tables = [str(row[0]) for row in connection.execute(query)]
        info = {table: connection.execute("SELECT * FROM pragma_table_info(?)", (table,)).fetchall() for table in tables}
        links = {table: connection.execute("SELECT * FROM pragma_foreign_key_list(?)", (table,)).fetchall() for table in tables}
    primary = {table.lower(): frozenset(str(row[1]).lower() for row in rows if row[5]) for table, rows in info.items()}
    return Keys(
        columns={table.lower(): frozenset(str(row[1]).lower() for row in rows) for table, rows in info.items()},
        primary=primary,
        present=frozenset(
            (table.lower(), str(row[1]).lower()) for table, rows in info.items() for row in rows if row[3] or row[5]
        ),
        references=frozenset(
            (table.lower(), str(row[3]).lower(), str(row[2]).lower(), _target(row[4], primary.get(str(row[2]).lower())))
            for table, rows in links.items()
            for row in rows
            if sum(other[0] == row[0] for other in rows) == 1  # single columns only
        ),
    )


def is_equal_by_keys(gold: str, mutant: str, keys: Keys, dialect: str = "sqlite") -> bool:
    """Whether the two differ only where the keys prove it can't show.

    1. DISTINCT over one table whose primary key is selected, or held fixed by WHERE: no row repeats.
    2. COUNT(DISTINCT key) of one table, its key being that one column: as COUNT(key).
    3. A LEFT JOIN from a column that is never NULL to the key it references: every row has its partner.
    """
    try:
        one, other = (sqlglot.parse_one(sql, read=dialect) for sql in (gold, mutant))
        _strip_proved(one, keys)
        _strip_proved(other, keys)
        return bool(one.sql(dialect=dialect) == other.sql(dialect=dialect))
    except (SqlglotError, RecursionError):
        return False


def _strip_proved(tree: exp.Expr, keys: Keys) -> None:
    """Take out of `tree` every DISTINCT and LEFT that the keys prove to be without effect."""
    defined = {item.alias_or_name.lower() for item in tree.find_all(exp.CTE)}
    for select in list(tree.find_all(exp.Select)):
        tables, joins = _tables(select, defined), select.args.get("joins") or []
        if len(tables) == 1 and not joins:
            _strip_distinct(select, *next(iter(tables.items())), keys)
        for join in joins if all(join.side in ("", "LEFT") for join in joins) else ():
            if join.side == "LEFT" and _always_meets(join, joins, tables, keys):
                join.set("side", None)


def _strip_distinct(select: exp.Select, alias: str, table: str, keys: Keys) -> None:
    key = keys.primary.get(table, frozenset())
    if not key or select.args.get("group"):
        return
    is_member = isinstance(select.parent, exp.SetOperation)
    if select.args.get("distinct") and not is_member and key <= _columns(select.expressions, alias) | _fixed(select, alias):
        select.set("distinct", None)
    for count in list(select.find_all(exp.Count)):
        inside = count.this
        is_single = isinstance(inside, exp.Distinct) and len(inside.expressions) == 1
        if is_single and count.find_ancestor(exp.Select) is select and _columns(inside.expressions, alias) == key:
            count.set("this", inside.expressions[0].copy())


def _always_meets(join: exp.Join, joins: list[exp.Join], tables: dict[str, str], keys: Keys) -> bool:
    condition = join.args.get("on")
    sides = [condition.this, condition.expression] if isinstance(condition, exp.EQ) else []
    joined = join.this.alias_or_name.lower()
    ours = next((side for side in sides if isinstance(side, exp.Column) and side.table.lower() == joined), None)
    theirs = next((side for side in sides if isinstance(side, exp.Column) and side.table.lower() != joined), None)
    if ours is None or theirs is None:
        return False
    child = (tables.get(theirs.table.lower(), ""), theirs.name.lower())
    # A table that an outer join brought in may lack the whole row.
    is_sure = not any(other.side and other.this.alias_or_name.lower() == theirs.table.lower() for other in joins)
    return is_sure and child in keys.present and (*child, tables.get(joined, ""), ours.name.lower()) in keys.references


def _tables(select: exp.Select, defined: Container[str]) -> dict[str, str]:
    """The tables of FROM and its joins by their alias or name; what a subquery or WITH (`defined`) makes is no table."""
    sources = [select.args.get("from_"), *(select.args.get("joins") or ())]
    items = [source.this for source in sources if source is not None]
    names = {item.alias_or_name.lower(): item.name.lower() if isinstance(item, exp.Table) else "" for item in items}
    return {alias: "" if name in defined else name for alias, name in names.items()}


def _columns(items: Iterable[exp.Expr], alias: str) -> frozenset[str]:
    """The names of those items that are bare columns of `alias`."""
    return frozenset(item.name.lower() for item in items if isinstance(item, exp.Column) and item.table.lower() in ("", alias))


def _fixed(select: exp.Select, alias: str) -> frozenset[str]:
    """Columns of `alias` that WHERE compares for equality with a literal, in a condition that must hold."""
    where = select.args.get("where")
    conditions = list(where.this.flatten()) if where and isinstance(where.this, exp.And) else [where.this] if where else []
    equal = [item for item in conditions if isinstance(item, exp.EQ) and isinstance(item.expression, exp.Literal)]
    return _columns([item.this for item in equal], alias)


def _target(column: str | None, primary: frozenset[str] | None) -> str:
    """The referenced column; where none is written it is the primary key."""
    return column.lower() if column else next(iter(primary), "") if primary and len(primary) == 1 else ""
