"""Rows that bring CREATE TABLE statements and no database in; a SQLite file for each different schema out.

The statements are a stranger's: they run in memory, reach no file, and end after a number of steps.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from kidcore.errors import KidpipeError
from kidcore.progress import WorkProgress
from kidcore.sql.schema.identifiers import always_quoted
from kidpipe.own_data.columns import CREATES
from kidpipe.own_data.rows import Row

NAME = "name of the database made of the schema"
"""The column that rows get, which names their database."""
_MOST_STEPS = 10_000
"""Thousands of SQLite's virtual-machine steps for one schema with its rows."""
_MOST_BYTES, _MOST_PAGES = 1 << 24, 1 << 14
"""A value's, and the pages of 4 KiB of a whole database."""
_FORBIDDEN = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)


@dataclass(frozen=True)
class Made:
    """The databases, the rows that have one, and why others have none."""

    databases: dict[str, Path]
    rows: list[Row]
    left_out: Counter[str]
    empty: int
    """Databases without a single row: their results are all alike."""


def make_databases(rows: Sequence[Row], column: str, folder: Path, bar: WorkProgress) -> Made:
    """Write <folder>/<name>.sqlite for each different text under `column`.

    Raises:
        KidpipeError: not one of the texts is a schema that SQLite takes.
    """
    databases: dict[str, Path] = {}
    faults: dict[str, str] = {}
    kept: list[Row] = []
    left_out: Counter[str] = Counter()
    empty = 0
    for row in bar.each("schemas", rows, len(rows)):
        schema = _statements(str(row.get(column) or ""))
        name = f"schema_{hashlib.sha256(schema.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
        if name not in databases and name not in faults:
            try:
                content, has_rows = _execute(schema)
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                faults[name] = str(error)
            else:
                databases[name] = folder / f"{name}.sqlite"
                databases[name].write_bytes(content)
                empty += not has_rows
        if name in faults:
            left_out["with statements of a schema that SQLite does not take"] += 1
        else:
            kept.append(row | {NAME: name})
    if not databases:
        first = next(iter(faults.values()), "there are none")
        raise KidpipeError(
            f"SQLite takes none of the schemas: {first}", where=f"column {column!r}", fix="give the databases: --database FOLDER"
        )
    return Made(databases, kept, left_out, empty)


def _statements(text: str) -> str:
    """From the first table on: before it a prompt says what comes, and dumps drop what is not there."""
    found = CREATES.search(text)
    return text[found.start() :].strip() if found else ""


def _execute(schema: str) -> tuple[bytes, bool]:
    """The database that the statements make, as bytes, and whether it has any row."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
        connection.execute(f"PRAGMA max_page_count = {_MOST_PAGES}")
        steps = iter(range(_MOST_STEPS))
        connection.set_progress_handler(lambda: next(steps, None) is None, 1000)
        connection.set_authorizer(_admit)
        connection.executescript(schema)
        if connection.in_transaction:
            connection.commit()
        connection.set_authorizer(None)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if not tables:
            raise sqlite3.OperationalError("no table is created")
        has_rows = any(connection.execute(f"SELECT 1 FROM {always_quoted(name)} LIMIT 1").fetchone() for name in tables)
        return connection.serialize(), has_rows


def _admit(action: int, *_what: str | None) -> int:
    """Everything but other files; pragmas, which dumps begin with, do nothing."""
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_IGNORE
    return sqlite3.SQLITE_DENY if action in _FORBIDDEN else sqlite3.SQLITE_OK
