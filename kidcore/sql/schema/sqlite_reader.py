"""A SQLite file in, its schema out: what a statement in the sandbox can read of it, whatever else is in the file."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from kidcore.sql.sandbox.admission import admit_schema, admits
from kidcore.sql.schema.identifiers import always_quoted
from kidcore.sql.schema.tables import Column, ForeignKey, Schema, Table, TableKind
from kidcore.sql.schema.unsettled import unsettled_views

# A view may run for ever. Counted in steps, not seconds: the same rows are shown on every machine.
_SAMPLE_STEPS = 5_000_000
_STEPS_A_TICK = 100_000
_HIDDEN = 1
"""A column that SELECT * leaves out: a virtual table's argument, not part of its contents."""
# Where SQLite can't say which tables are shadows (before 3.37): what the modules call theirs.
_SHADOW_SUFFIXES = (
    *("config", "content", "data", "docsize", "idx"),  # FTS5
    *("segdir", "segments", "stat"),  # FTS3 and FTS4
    *("node", "parent", "rowid"),  # R-tree
)

Relation = tuple[str, str, TableKind]
"""Name, SQL, kind."""


def connect(file: Path) -> sqlite3.Connection:
    """A connection to read with; it never writes, beside the file neither. Close it yourself."""
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection


def read(file: Path, db_id: str, sample_rows: int = 0) -> Schema:
    """The readable tables and views, in the order they were created, with the first `sample_rows` rows of each.

    Views whose rows are others each day, or each time, are shown without rows.

    Raises:
        sqlite3.Error: the file is no database, or a damaged one.
    """
    with closing(connect(file)) as connection:
        relations = _relations(connection)
        columns = {name: _columns(connection, name, kind) for name, _sql, kind in relations}
        keys = {name: _foreign_keys(connection, name) for name, _sql, _kind in relations}
        admit_schema(connection)
        connection.set_authorizer(lambda *action: sqlite3.SQLITE_OK if admits(*action[:4]) else sqlite3.SQLITE_DENY)
        unsettled = unsettled_views({name: sql for name, sql, kind in relations if kind is TableKind.VIEW})
        tables = []
        for name, sql, kind in relations:
            readable = _readable(connection, name, columns[name])
            if readable and not (kind is TableKind.VIEW and _is_denied(connection, name, readable)):
                is_shown = sample_rows and name not in unsettled
                samples = _samples(connection, name, readable, sample_rows) if is_shown else ()
                found = tuple(column for column, _position in readable)
                tables.append(Table(name, found, sql, (), samples, kind))
        return Schema(db_id, tuple(_with_keys(table, tables, keys[table.name], columns) for table in tables))


def _relations(connection: sqlite3.Connection) -> list[Relation]:
    """Tables and then views of the file, without SQLite's own and without shadow tables."""
    found = connection.execute(
        "SELECT name, sql, type FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY rowid"
    ).fetchall()
    virtual = {name for name, sql, _type in found if (sql or "")[:20].upper() == "CREATE VIRTUAL TABLE"}
    shadows = _shadows(connection, virtual) if virtual else set()
    kinds = {"table": TableKind.TABLE, "view": TableKind.VIEW}
    relations = [
        (name, sql or "", TableKind.VIRTUAL if name in virtual else kinds[kind])
        for name, sql, kind in found
        # The underscore is part of what is reserved: a table may well be called sqlitex.
        if name not in shadows and not name.lower().startswith("sqlite_")
    ]
    return sorted(relations, key=lambda relation: relation[2] is TableKind.VIEW)


def _shadows(connection: sqlite3.Connection, virtual: set[str]) -> set[str]:
    rows = connection.execute("PRAGMA table_list").fetchall()
    if rows:
        return {str(row[1]) for row in rows if row[0] == "main" and row[2] == "shadow"}
    return shadows_by_name(virtual)


def shadows_by_name(virtual: set[str]) -> set[str]:
    """The names that shadow tables of these virtual tables have, whatever their modules are."""
    return {f"{name}_{suffix}" for name in virtual for suffix in _SHADOW_SUFFIXES}


def _columns(connection: sqlite3.Connection, table: str, kind: TableKind) -> list[tuple[Column, int]]:
    """The columns that SELECT * shows, each with its place in the primary key (from 1; 0 = none)."""
    try:
        rows = connection.execute(f"PRAGMA table_xinfo({always_quoted(table)})").fetchall()
    except sqlite3.Error:  # a view of something that isn't there any more, a module that this SQLite lacks
        return []
    # A table's column without a type takes anything as it is, which "text" has always stood for here; the type of a
    # view's column may just not be known.
    unknown = "" if kind is TableKind.VIEW else "text"
    return [
        (Column(name, " ".join(declared.lower().splitlines()) or unknown, bool(place), hidden > _HIDDEN), place)
        for _number, name, declared, _required, _default, place, hidden in rows
        if hidden != _HIDDEN
    ]


def _readable(connection: sqlite3.Connection, table: str, columns: list[tuple[Column, int]]) -> list[tuple[Column, int]]:
    """Those columns for which a statement compiles; most often all of them."""
    if not columns or _compiles(connection, table, columns):
        return columns
    return [column for column in columns if _compiles(connection, table, [column])]


def _compiles(connection: sqlite3.Connection, table: str, columns: list[tuple[Column, int]]) -> bool:
    try:
        connection.execute(f"EXPLAIN {_select(table, columns)}").close()
    except (sqlite3.Error, UnicodeError):
        return False
    return True


def _is_denied(connection: sqlite3.Connection, view: str, columns: list[tuple[Column, int]]) -> bool:
    """Whether the authorizer stops the view when it is used, which it does where the view asks a pragma."""
    try:
        _first_rows(connection, f"{_select(view, columns)} LIMIT 1")
    except sqlite3.Error as error:
        return error.sqlite_errorcode == sqlite3.SQLITE_AUTH or "authoriz" in str(error)
    return False


def _select(table: str, columns: list[tuple[Column, int]]) -> str:
    # Written with the table: a bare name in double quotes that is no column would be taken for a text.
    name = always_quoted(table)
    return f"SELECT {', '.join(f'{name}.{always_quoted(column.name)}' for column, _place in columns)} FROM {name}"


def _samples(
    connection: sqlite3.Connection, table: str, columns: list[tuple[Column, int]], number: int
) -> tuple[tuple[Any, ...], ...]:
    """The first rows; none where they can't be had, or not soon."""
    try:
        return tuple(_first_rows(connection, f"{_select(table, columns)} LIMIT {number}"))
    except (sqlite3.Error, OverflowError):
        return ()


def _first_rows(connection: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
    ticks = iter(range(_SAMPLE_STEPS // _STEPS_A_TICK))
    connection.set_progress_handler(lambda: int(next(ticks, None) is None), _STEPS_A_TICK)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.set_progress_handler(None, 0)


def _foreign_keys(connection: sqlite3.Connection, table: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """(referenced table, [(column, referenced column or None)]) of each key as declared."""
    keys: dict[int, tuple[str, list[tuple[str, str | None]]]] = {}
    rows = connection.execute(f"PRAGMA foreign_key_list({always_quoted(table)})").fetchall()
    for number, _place, other, column, target, *_rest in sorted(rows, key=lambda row: (-row[0], row[1])):
        # SQLite numbers keys from the last one declared, and the columns of a key from the first.
        keys.setdefault(number, (other, []))[1].append((column, target))
    return list(keys.values())


def _with_keys(
    table: Table,
    tables: list[Table],
    declared: list[tuple[str, list[tuple[str, str | None]]]],
    columns: dict[str, list[tuple[Column, int]]],
) -> Table:
    """The table with those of its declared keys that lead somewhere."""
    known = {other.name.lower(): other for other in tables}
    keys = []
    for name, pairs in declared:
        other = known.get(name.lower())
        if other is None:
            continue
        primary = [column.name for column, place in sorted(columns[other.name], key=lambda item: item[1]) if place]
        named = [target for _column, target in pairs if target is not None]
        targets = named or primary  # a reference without columns means the primary key
        names = {column.name.lower() for column in other.columns}
        if len(targets) == len(pairs) and all(target.lower() in names for target in targets):
            keys.append(ForeignKey(tuple(column for column, _target in pairs), name, tuple(targets)))
    return Table(table.name, table.columns, table.create_sql, tuple(keys), table.samples, table.kind)
