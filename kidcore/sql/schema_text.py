"""A database file in, its schema out; kidcore/models/templates writes it as text."""

import sqlite3
from pathlib import Path

from kidcore.errors import KidpipeError
from kidcore.sql.schema import sqlite_reader
from kidcore.sql.schema.tables import Schema


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
