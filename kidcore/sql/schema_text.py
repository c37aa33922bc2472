"""A database in, its schema out; kidcore/models/templates writes it as text."""

from pathlib import Path

from kidcore.sql.database import Database, database_of
from kidcore.sql.schema.tables import Schema


def read_schema(database: Database | Path, db_id: str = "", sample_rows: int = 0) -> Schema:
    """The tables of a database or of the one in a file, with the first `sample_rows` rows of each.

    Raises:
        KidpipeError: the file is missing or is not a readable database.
    """
    return database_of(database, db_id).schema(sample_rows)
