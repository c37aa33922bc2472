"""What a SQLite connection admits: reading alone, told to SQLite by an authorizer. Standard library only.

The sandbox executes under these rules, and the schema reader shows what can be read under them.
"""

import contextlib
import sqlite3

from kidcore.sql.schema.identifiers import always_quoted

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "sqlite_log"}
# These write, or look after tables; FTS5's own is for extensions.
_FORBIDDEN_FUNCTIONS |= {"optimize", "rtreecheck", "fts5"}


def admits(action: int, first: str | None, second: str | None, database: str | None) -> bool:
    """Whether an action that the authorizer is asked about is reading; the arguments are SQLite's."""
    if action in _READING:
        return True
    if action == sqlite3.SQLITE_FUNCTION:
        return (second or "").lower() not in _FORBIDDEN_FUNCTIONS
    # FTS5 asks this of the database whenever its index is read. Nobody learns anything by it.
    return action == sqlite3.SQLITE_PRAGMA and first == "data_version" and second is None and database == "main"


def describe(action: int, first: str | None, second: str | None) -> str:
    """The action in words, for messages."""
    return " ".join(part for part in (_ACTIONS.get(action, str(action)), first, second) if part)


def admit_schema(connection: sqlite3.Connection) -> None:
    """Do what the database's own schema needs and the authorizer would refuse; to be called before it is set.

    Declaring a virtual table looks like writing to the authorizer, and an R-tree prepares its INSERTs when it is opened:
    used once now, they are declared. The schema is read by this, so that limits set afterwards bind statements, not the
    database.
    """
    # Not trusting the schema would forbid its views and columns all functions that aren't marked as innocuous, which SQLite
    # before 3.41 forgot to do for JSON. The others that lack the mark are forbidden by `admits`, in views too, or aren't
    # deterministic, as a column's must be; those marked as for direct use only stay out of schemas either way.
    connection.execute("PRAGMA trusted_schema = ON").close()
    for table in ("json_each('[]'), json_tree('[]')", *_virtual_tables(connection)):
        with contextlib.suppress(sqlite3.Error, UnicodeError):  # an SQLite without that module, or damaged contents
            connection.execute(f"SELECT 1 FROM {table} LIMIT 0").close()


def _virtual_tables(connection: sqlite3.Connection) -> list[str]:
    # SQLite writes these three words itself, whatever the statement was.
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%'"
    return [always_quoted(name) for (name,) in connection.execute(query)]


# The authorizer's action codes by number, for messages.
_ACTIONS = {
    value: name.removeprefix("SQLITE_").replace("_", " ").lower()
    for name, value in vars(sqlite3).items()
    if name.startswith(("SQLITE_ALTER", "SQLITE_ANALYZE", "SQLITE_ATTACH", "SQLITE_CREATE", "SQLITE_DE", "SQLITE_DROP"))
    or name in ("SQLITE_FUNCTION", "SQLITE_INSERT", "SQLITE_PRAGMA", "SQLITE_REINDEX", "SQLITE_SAVEPOINT")
    or name in ("SQLITE_TRANSACTION", "SQLITE_UPDATE")
}
