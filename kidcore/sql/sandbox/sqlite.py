"""The inner ring for SQLite: one statement on a read-only connection that admits nothing but reading.

Standard library only: this runs inside the sandbox's workers.
"""

import contextlib
import sqlite3
import time
from pathlib import Path

from kidcore.sql.sandbox.job import Job, Limits, ResultKind, Row

_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "sqlite_log"}
_CONNECTIONS_KEPT = 16
_FETCH_ROWS = 256
_HANDLER_STEPS = 10_000

Fetched = tuple[ResultKind, list[Row], int, str]
"""Kind, rows, number of columns, message."""


class SqliteEngine:
    """Executes statements on SQLite files under `limits`, keeping recently used connections open."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections: dict[tuple[str, bool], sqlite3.Connection] = {}
        self._refused = ""
        self._stopped = ""
        self._ticks = 0
        self._deadline = 0.0
        self._ticks_allowed = 0

    def execute(self, job: Job) -> Fetched:
        """Run one job; every way a statement can fail comes back as an Outcome."""
        try:
            connection = self._connect(job.database, job.reverse)
        except sqlite3.Error as error:
            return ResultKind.ERROR, [], 0, f"cannot open database: {error}"
        self._refused = self._stopped = ""
        self._ticks = 0
        self._deadline = time.monotonic() + self._limits.timeout_s
        try:
            return self._run(connection, job.sql)
        finally:
            if connection.in_transaction:
                self._connections.pop((job.database, job.reverse)).close()

    def _run(self, connection: sqlite3.Connection, sql: str) -> Fetched:
        try:
            try:
                return self._fetch(connection, sql)
            except sqlite3.OperationalError as error:
                if "Could not decode to UTF-8" not in str(error):
                    raise
            # Decoding each text in Python is slow, so it is done only for results that need it. Bytes that aren't UTF-8
            # become surrogates one by one: distinct texts stay distinct.
            connection.text_factory = _decode_any
            try:
                return self._fetch(connection, sql)
            finally:
                connection.text_factory = str
        except MemoryError:
            return ResultKind.MEMORY, [], 0, f"needs more than {self._limits.memory_mib} MiB of memory"
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            return self._explain(error)

    def _fetch(self, connection: sqlite3.Connection, sql: str) -> Fetched:
        cursor = connection.cursor()
        try:
            cursor.execute(sql)
            if cursor.description is None:
                return ResultKind.ERROR, [], 0, "no statement"
            num_columns = len(cursor.description)
            rows: list[Row] = cursor.fetchmany(_FETCH_ROWS)
            if len(rows) < _FETCH_ROWS:
                return ResultKind.OK, rows, num_columns, ""
            size, batch = 0, rows
            while batch:
                size += sum(_size(row) for row in batch)
                if len(rows) > self._limits.max_rows:
                    return ResultKind.MEMORY, [], num_columns, f"more than {self._limits.max_rows} rows"
                if size > self._limits.max_bytes:
                    return ResultKind.MEMORY, [], num_columns, f"a result of more than {self._limits.max_bytes} bytes"
                batch = cursor.fetchmany(_FETCH_ROWS)
                rows += batch
            return ResultKind.OK, rows, num_columns, ""
        finally:
            cursor.close()

    def _explain(self, error: Exception) -> Fetched:
        message = str(error)
        if self._stopped:
            return ResultKind.TIMEOUT, [], 0, self._stopped
        if self._refused:
            return ResultKind.REFUSED, [], 0, self._refused
        if "one statement at a time" in message:
            return ResultKind.REFUSED, [], 0, "more than one statement"
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError):
            return ResultKind.REFUSED, [], 0, message
        return ResultKind.ERROR, [], 0, message

    def _connect(self, database: str, reverse: bool) -> sqlite3.Connection:
        connection = self._connections.get((database, reverse))
        if connection is None:
            while len(self._connections) >= _CONNECTIONS_KEPT:
                self._connections.pop(next(iter(self._connections))).close()
            connection = self._connections[database, reverse] = self._open(database, reverse)
        return connection

    def _open(self, database: str, reverse: bool) -> sqlite3.Connection:
        uri = Path(database).absolute().as_uri() + "?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
        limits = self._limits
        for pragma in (
            "query_only = ON",
            "temp_store = MEMORY",
            "trusted_schema = OFF",
            "cell_size_check = ON",
            f"reverse_unordered_selects = {int(reverse)}",
            f"hard_heap_limit = {(limits.memory_mib << 20) // 2}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()
        for category, value in (
            (sqlite3.SQLITE_LIMIT_LENGTH, limits.max_value_bytes),
            (sqlite3.SQLITE_LIMIT_SQL_LENGTH, limits.max_sql_bytes),
            (sqlite3.SQLITE_LIMIT_COLUMN, limits.max_columns),
            (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, limits.max_expression_depth),
            (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, limits.max_compound),
            (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
            (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0),
            (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
            (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 10_000),
        ):
            connection.setlimit(category, value)
        _keep_double_quoted_literals(connection)
        _admit_json_tables(connection)
        interval = min(_HANDLER_STEPS, limits.max_steps) if limits.max_steps else _HANDLER_STEPS
        self._ticks_allowed = limits.max_steps // interval
        connection.set_progress_handler(self._tick, interval)
        connection.set_authorizer(self._authorize)
        return connection

    def _authorize(self, action: int, first: str | None, second: str | None, _database: str | None, _inner: str | None) -> int:
        if action in _READING:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_OK
        detail = " ".join(part for part in (first, second) if part)
        self._refused = f"not a reading statement: {_ACTIONS.get(action, str(action))} {detail}".rstrip()
        return sqlite3.SQLITE_DENY

    def _tick(self) -> int:
        """Called by SQLite every so many steps; non-zero stops the statement."""
        self._ticks += 1
        if self._ticks_allowed and self._ticks >= self._ticks_allowed:
            self._stopped = f"more than {self._limits.max_steps} steps"
            return 1
        if time.monotonic() > self._deadline:
            self._stopped = f"more than {self._limits.timeout_s:g} s"
            return 1
        return 0


def _decode_any(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _size(row: Row) -> int:
    """Roughly the bytes that the row's values take."""
    return 8 * len(row) + sum(len(value) for value in row if isinstance(value, (str, bytes)))


def _keep_double_quoted_literals(connection: sqlite3.Connection) -> None:
    """Benchmarks write text as "x"; some builds of SQLite have that switched off. Python 3.11 can't switch it on."""
    if setconfig := getattr(connection, "setconfig", None):
        for name in ("SQLITE_DBCONFIG_DQS_DML", "SQLITE_DBCONFIG_DEFENSIVE"):
            setconfig(getattr(sqlite3, name), True)


def _admit_json_tables(connection: sqlite3.Connection) -> None:
    """Declaring a virtual table looks like writing to the authorizer; used once before it is set, these are declared."""
    with contextlib.suppress(sqlite3.OperationalError):  # an SQLite without JSON
        connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')").close()


# The authorizer's action codes by number, for messages.
_ACTIONS = {
    value: name.removeprefix("SQLITE_").replace("_", " ").lower()
    for name, value in vars(sqlite3).items()
    if name.startswith(("SQLITE_ALTER", "SQLITE_ANALYZE", "SQLITE_ATTACH", "SQLITE_CREATE", "SQLITE_DE", "SQLITE_DROP"))
    or name in ("SQLITE_FUNCTION", "SQLITE_INSERT", "SQLITE_PRAGMA", "SQLITE_REINDEX", "SQLITE_SAVEPOINT")
    or name in ("SQLITE_TRANSACTION", "SQLITE_UPDATE")
}
