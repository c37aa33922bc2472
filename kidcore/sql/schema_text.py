"""A database file in, its schema as text out, in the templates `compact` and `ddl`."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    is_primary: bool


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple[Column, ...]
    create_sql: str
    foreign_keys: tuple[tuple[str, str, str], ...]
    """(column, referenced table, referenced column)."""
    samples: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Schema:
    db_id: str
    tables: tuple[Table, ...]


def read_schema(database: Path, db_id: str, sample_rows: int = 0) -> Schema:
    """The tables of a SQLite or DuckDB file, with the first `sample_rows` rows of each.

    Raises:
        KidpipeError: the file is missing or is not a readable database.
    """
    if not database.is_file():
        raise KidpipeError("database missing", where=str(database), fix="set data.databases to the folder that holds it")
    try:
        if database.suffix == ".duckdb":
            return _read_duckdb(database, db_id, sample_rows)
        return _read_sqlite(database, db_id, sample_rows)
    except sqlite3.Error as error:
        raise KidpipeError(f"database unreadable: {error}", where=str(database), fix="copy it from its source again") from None


def _read_sqlite(database: Path, db_id: str, sample_rows: int) -> Schema:
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        names = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
        ).fetchall()
        return Schema(db_id, tuple(_sqlite_table(connection, name, sql or "", sample_rows) for name, sql in names))
    finally:
        connection.close()


def _sqlite_table(connection: sqlite3.Connection, name: str, create_sql: str, sample_rows: int) -> Table:
    quoted = '"' + name.replace('"', '""') + '"'
    info = connection.execute(f"PRAGMA table_info({quoted})").fetchall()
    keys = connection.execute(f"PRAGMA foreign_key_list({quoted})").fetchall()
    primary = [row[1] for row in info if row[5]]
    return Table(
        name,
        tuple(Column(row[1], row[2].lower() or "text", bool(row[5])) for row in info),
        create_sql,
        # A reference that names no column means the primary key of the other table.
        tuple((row[3], row[2], row[4] or _primary_of(connection, row[2]) or primary[0]) for row in reversed(keys)),
        tuple(connection.execute(f"SELECT * FROM {quoted} LIMIT ?", (sample_rows,)).fetchall()) if sample_rows else (),
    )


def _primary_of(connection: sqlite3.Connection, table: str) -> str:
    quoted = '"' + table.replace('"', '""') + '"'
    return next((row[1] for row in connection.execute(f"PRAGMA table_info({quoted})") if row[5]), "")


def _read_duckdb(database: Path, db_id: str, sample_rows: int) -> Schema:
    import duckdb

    try:
        connection = duckdb.connect(str(database), read_only=True, config={"enable_external_access": "false"})
    except duckdb.Error as error:
        raise KidpipeError(f"database unreadable: {error}", where=str(database), fix="copy it from its source again") from None
    with connection:
        tables = connection.execute(
            "SELECT table_name, sql FROM duckdb_tables() WHERE NOT internal ORDER BY table_oid"
        ).fetchall()
        return Schema(db_id, tuple(_duckdb_table(connection, name, sql, sample_rows) for name, sql in tables))


def _duckdb_table(connection: Any, name: str, create_sql: str, sample_rows: int) -> Table:
    columns = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [name]
    ).fetchall()
    constraints = connection.execute(
        "SELECT constraint_type, constraint_column_names, referenced_table, referenced_column_names "
        "FROM duckdb_constraints() WHERE table_name = ?",
        [name],
    ).fetchall()
    primary = {column for kind, names, _, _ in constraints if kind == "PRIMARY KEY" for column in names}
    foreign = [
        (column, table, other)
        for kind, names, table, others in constraints
        if kind == "FOREIGN KEY"
        for column, other in zip(names, others, strict=True)
    ]
    quoted = '"' + name.replace('"', '""') + '"'
    return Table(
        name,
        tuple(Column(column, str(kind).lower(), column in primary) for column, kind in columns),
        create_sql,
        tuple(foreign),
        tuple(connection.execute(f"SELECT * FROM {quoted} LIMIT {sample_rows}").fetchall()) if sample_rows else (),
    )


def render(schema: Schema, template: str) -> str:
    """The schema as the prompt shows it, ending in a newline. `template` is `compact` or `ddl`."""
    return _render_compact(schema) if template == "compact" else _render_ddl(schema)


def _render_compact(schema: Schema) -> str:
    lines = [f"database: {schema.db_id}"]
    for table in schema.tables:
        columns = (f"{c.name} {c.type}{' primary key' if c.is_primary else ''}" for c in table.columns)
        lines.append(f"{table.name}: {', '.join(columns)}")
    foreign = [f"{t.name}.{column} = {other}.{key}" for t in schema.tables for column, other, key in t.foreign_keys]
    if foreign:
        lines.append(f"foreign keys: {', '.join(foreign)}")
    return "\n".join(lines) + "\n"


def _render_ddl(schema: Schema) -> str:
    blocks = []
    for table in schema.tables:
        lines = [table.create_sql.strip() + ";"]
        if table.samples:
            lines.append(f"/* {len(table.samples)} rows of {table.name}:")
            lines.append("\t".join(column.name for column in table.columns))
            lines.extend("\t".join(_cell(value) for value in row) for row in table.samples)
            lines.append("*/")
        blocks.append("\n".join(lines))
    return "\n".join(blocks) + "\n"


def _cell(value: Any) -> str:
    """A sample value on one line, cut at 40 characters so that one long text does not fill the prompt."""
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else " ".join(str(value).split())
    return text if len(text) <= 40 else text[:39] + "…"


_PROBE = Schema(
    "probe",
    (
        Table(
            "a",
            (Column("id", "int", True), Column("t", "text", False)),
            "CREATE TABLE a (id int, t text)",
            (),
            ((1, "x" * 50),),
        ),
        Table("b", (Column("a_id", "int", False),), "CREATE TABLE b (a_id int)", (("a_id", "a", "id"),)),
    ),
)


def template_digest(template: str, question_probe: str) -> str:
    """Changes when and only when what the template writes changes."""
    return fingerprint([render(_PROBE, template), question_probe], 16)
