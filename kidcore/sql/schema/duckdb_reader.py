"""A DuckDB file in, its schema out: what a statement in the sandbox can read of it. Imported only where such a file turns up."""

import re
import threading
from pathlib import Path
from typing import Any

import duckdb

from kidcore.sql.schema.identifiers import always_quoted
from kidcore.sql.schema.tables import Column, ForeignKey, Schema, Table, TableKind
from kidcore.sql.schema.unsettled import unsettled_views

# A view may run for ever, and DuckDB counts no steps: such a view is shown without rows.
_SAMPLE_SECONDS = 10.0
# What is quoted in a type is a value of an enum or a field of a struct, and keeps its case.
_UNQUOTED = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*")""")

Relation = tuple[str, str, str, TableKind]
"""Schema, name, SQL, kind."""


def connect(file: Path) -> Any:
    """A connection to read with, which looks at no other file. Close it yourself.

    Raises:
        duckdb.Error: the file is no database, or another process writes it.
    """
    # With several threads the rows of a view without ORDER BY come in another order each time.
    return duckdb.connect(str(file), read_only=True, config={"enable_external_access": "false", "threads": "1"})


def read(file: Path, db_id: str, sample_rows: int = 0) -> Schema:
    """The readable tables and views of the file's own catalogue, main's first, as DuckDB numbers them.

    Views whose rows are others each day, or each time, are shown without rows.

    Raises:
        duckdb.Error: as `connect`.
    """
    with connect(file) as connection:
        (catalogue,) = connection.execute("SELECT current_database()").fetchone()
        keys = _constraints(connection, catalogue)
        relations = _relations(connection, catalogue)
        unsettled = unsettled_views({name: sql for _space, name, sql, kind in relations if kind is TableKind.VIEW}, "duckdb")
        tables = []
        for space, name, sql, kind in relations:
            primary, foreign = keys.get((space, name), (frozenset(), ()))
            qualifiers = _qualifiers(space, catalogue)
            where = ".".join(map(always_quoted, (catalogue, space, name)))
            if columns := _columns(connection, where, primary):
                is_shown = sample_rows and not (kind is TableKind.VIEW and name in unsettled)
                samples = _samples(connection, where, columns, sample_rows) if is_shown else ()
                tables.append(Table(name, columns, sql, foreign, samples, kind, qualifiers))
        return Schema(db_id, tuple(tables), "duckdb")


def _relations(connection: Any, catalogue: str) -> list[Relation]:
    tables = connection.execute(
        "SELECT schema_name, table_name, sql FROM duckdb_tables() "
        "WHERE NOT internal AND NOT temporary AND database_name = ? ORDER BY schema_name <> 'main', schema_name, table_oid",
        [catalogue],
    ).fetchall()
    views = connection.execute(
        "SELECT schema_name, view_name, sql FROM duckdb_views() "
        "WHERE NOT internal AND NOT temporary AND database_name = ? ORDER BY schema_name <> 'main', schema_name, view_oid",
        [catalogue],
    ).fetchall()
    return [(*row, TableKind.TABLE) for row in tables] + [(*row, TableKind.VIEW) for row in views]


def _qualifiers(space: str, catalogue: str) -> tuple[str, ...]:
    """What has to stand before the name. A schema that is called as the catalogue is ambiguous without it."""
    if space == "main":
        return ()
    return (catalogue, space) if space.lower() == catalogue.lower() else (space,)


def _columns(connection: Any, where: str, primary: frozenset[str]) -> tuple[Column, ...]:
    """The columns as a query sees them; none where it can't (a view of what isn't there, or of another file)."""
    try:
        rows = connection.execute(f"DESCRIBE SELECT * FROM {where}").fetchall()
    except duckdb.Error:
        return ()
    return tuple(Column(name, _lower(str(kind)), name in primary) for name, kind, *_rest in rows)


def _lower(kind: str) -> str:
    pieces = _UNQUOTED.split(kind)
    return "".join(piece if number % 2 else piece.lower() for number, piece in enumerate(pieces))


def _constraints(connection: Any, catalogue: str) -> dict[tuple[str, str], tuple[frozenset[str], tuple[ForeignKey, ...]]]:
    """Primary columns and foreign keys by (schema, table). DuckDB keeps keys within a schema, and names all their columns."""
    rows = connection.execute(
        "SELECT schema_name, table_name, constraint_type, constraint_column_names, referenced_table, referenced_column_names "
        "FROM duckdb_constraints() WHERE database_name = ? AND constraint_type IN ('PRIMARY KEY', 'FOREIGN KEY')",
        [catalogue],
    ).fetchall()
    found: dict[tuple[str, str], tuple[frozenset[str], tuple[ForeignKey, ...]]] = {}
    for space, table, kind, columns, other, targets in rows:
        primary, foreign = found.get((space, table), (frozenset(), ()))
        if kind == "PRIMARY KEY":
            primary |= frozenset(columns)
        else:
            foreign += (ForeignKey(tuple(columns), other, tuple(targets)),)
        found[space, table] = primary, foreign
    return found


def _samples(connection: Any, where: str, columns: tuple[Column, ...], number: int) -> tuple[tuple[Any, ...], ...]:
    # As Python values times with a zone need a package that DuckDB doesn't bring.
    zoned = [always_quoted(column.name) for column in columns if "timestamp with time zone" in column.type]
    replaced = f" REPLACE ({', '.join(f'CAST({name} AS VARCHAR) AS {name}' for name in zoned)})" if zoned else ""
    timer = threading.Timer(_SAMPLE_SECONDS, connection.interrupt)
    timer.start()
    try:
        return tuple(connection.execute(f"SELECT *{replaced} FROM {where} LIMIT {number}").fetchall())
    except (duckdb.Error, ValueError, OverflowError):
        return ()
    finally:
        timer.cancel()
