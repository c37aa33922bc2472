"""A database file in, its schema as text out, in the templates `compact` and `ddl`."""

import sqlite3
from pathlib import Path
from typing import Any

from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.sql.schema import sqlite_reader
from kidcore.sql.schema.tables import Column, ForeignKey, Schema, Table, TableKind


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
        return sqlite_reader.read(database, db_id, sample_rows)
    except sqlite3.Error as error:
        raise KidpipeError(f"database unreadable: {error}", where=str(database), fix="copy it from its source again") from None


def _read_duckdb(database: Path, db_id: str, sample_rows: int) -> Schema:
    import duckdb  # takes a moment to load, and most data sets have no such file

    from kidcore.sql.schema import duckdb_reader

    try:
        return duckdb_reader.read(database, db_id, sample_rows)
    except duckdb.Error as error:
        raise KidpipeError(f"database unreadable: {error}", where=str(database), fix="copy it from its source again") from None


def render(schema: Schema, template: str) -> str:
    """The schema as the prompt shows it, ending in a newline. `template` is `compact` or `ddl`."""
    return _render_compact(schema) if template == "compact" else _render_ddl(schema)


def _render_compact(schema: Schema) -> str:
    lines = [f"database: {schema.db_id}"]
    for table in schema.tables:
        columns = (_compact_column(schema, column) for column in table.columns)
        kind = "view " if table.kind is TableKind.VIEW else ""
        lines.append(f"{kind}{schema.quoted(*table.path)}: {', '.join(columns)}")
    foreign = [
        f"{schema.quoted(*table.path, column)} = {schema.quoted(*table.qualifiers, other, key)}"
        for table in schema.tables
        for column, other, key in table.links
    ]
    if foreign:
        lines.append(f"foreign keys: {', '.join(foreign)}")
    return "\n".join(lines) + "\n"


def _compact_column(schema: Schema, column: Column) -> str:
    parts = [schema.quoted(column.name), column.type, "primary key" if column.is_primary else ""]
    return " ".join(part for part in parts if part)


def _render_ddl(schema: Schema) -> str:
    blocks = []
    for table in schema.tables:
        lines = [table.create_sql.strip().removesuffix(";") + ";"]
        if table.kind is not TableKind.TABLE:
            # What a view or a full-text index selects need not be written in its statement.
            columns = ", ".join(schema.quoted(column.name) for column in table.columns)
            lines.append(f"/* columns of {schema.quoted(*table.path)}: {columns} */")
        if table.samples:
            lines.append(f"/* {len(table.samples)} rows of {schema.quoted(*table.path)}:")
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
        Table("b", (Column("a_id", "int", False),), "CREATE TABLE b (a_id int)", (ForeignKey(("a_id",), "a", ("id",)),)),
    ),
)


def template_digest(template: str, question_probe: str) -> str:
    """Changes when and only when what the template writes changes."""
    return fingerprint([render(_PROBE, template), question_probe], 16)
