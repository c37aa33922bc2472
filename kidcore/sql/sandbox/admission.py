"""What a SQLite connection admits: reading alone, told to SQLite by an authorizer. Standard library only.

The sandbox executes under these rules, and the schema reader shows what can be read under them.
"""

import contextlib
import re
import sqlite3

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "fts5", "readfile", "writefile", "edit", "sqlite_log"}
# Functions not marked as innocuous that a database's own views and columns may call all the same; SQLite before 3.41 forgot
# to mark its JSON functions. What changes something (optimize) or loads something isn't among them.
_HARMLESS = ("json", "->", "bm25", "fts5", "highlight", "match", "offsets", "snippet")
# Tables that SQLite makes up, which tell about more than the database's contents.
_INTERNAL_TABLES = ("pragma_", "sqlite_dbpage", "sqlite_stmt", "dbstat")
_INNOCUOUS = 0x200000


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
    used once now, they are declared. The rest of the schema is read here as well, so that limits set after this bind
    statements, not the database.
    """
    for module_tables in ("json_each('[]'), json_tree('[]')", *_virtual_tables(connection)):
        with contextlib.suppress(sqlite3.Error):  # an SQLite without that module, or damaged contents
            connection.execute(f"SELECT 1 FROM {module_tables} LIMIT 0").close()
    connection.execute(f"PRAGMA trusted_schema = {'ON' if is_harmless(connection) else 'OFF'}").close()


def is_harmless(connection: sqlite3.Connection) -> bool:
    """Whether the schema names no function that is neither innocuous nor known to be harmless, nor a table of SQLite's own."""
    try:
        doubtful = {
            str(name).lower()
            for name, flags in connection.execute("SELECT name, flags FROM pragma_function_list")
            if not flags & _INNOCUOUS and not str(name).lower().startswith(_HARMLESS)
        }
    except sqlite3.Error:  # an SQLite that doesn't list them
        return False
    doubtful |= _FORBIDDEN_FUNCTIONS - {"edit", "fts5"}
    # In a comment or as a column's name too: such a schema is merely trusted as little as any was before.
    texts = (str(sql).lower() for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"))
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    return words.isdisjoint(doubtful) and not any(word.startswith(_INTERNAL_TABLES) for word in words)


def _virtual_tables(connection: sqlite3.Connection) -> list[str]:
    # SQLite writes these three words itself, whatever the statement was.
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%'"
    return ['"' + name.replace('"', '""') + '"' for (name,) in connection.execute(query)]


# The authorizer's action codes by number, for messages.
_ACTIONS = {
    value: name.removeprefix("SQLITE_").replace("_", " ").lower()
    for name, value in vars(sqlite3).items()
    if name.startswith(("SQLITE_ALTER", "SQLITE_ANALYZE", "SQLITE_ATTACH", "SQLITE_CREATE", "SQLITE_DE", "SQLITE_DROP"))
    or name in ("SQLITE_FUNCTION", "SQLITE_INSERT", "SQLITE_PRAGMA", "SQLITE_REINDEX", "SQLITE_SAVEPOINT")
    or name in ("SQLITE_TRANSACTION", "SQLITE_UPDATE")
}
