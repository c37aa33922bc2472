"""The inner ring for SQLite: one statement on a read-only connection that admits nothing but reading.

Standard library only: this runs inside the sandbox's workers.
"""

import re
import sqlite3
import time
from pathlib import Path

from kidcore.sql.sandbox.admission import admit_schema, admits, describe
from kidcore.sql.sandbox.job import Job, Limits, ResultKind, Row
from kidcore.sql.schema.identifiers import always_quoted

# The authorizer lets the one pragma through that FTS5 asks; statements get none.
_PRAGMA = re.compile(r"(?:\s|--[^\n]*\n?|/\*.*?\*/)*pragma\b", re.IGNORECASE | re.DOTALL)
_CONNECTIONS_KEPT = 16
_FETCH_ROWS = 256
_HANDLER_STEPS = 10_000

Fetched = tuple[ResultKind, list[Row], tuple[str, ...], str]
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
        """Run one job; every way a statement can fail is a kind of result."""
        try:
            connection = self._connect(job.database, job.reverse)
        except sqlite3.Error as error:
            return ResultKind.ERROR, [], (), f"cannot open database: {error}"
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
            return ResultKind.MEMORY, [], (), f"needs more than {self._limits.memory_mib} MiB of memory"
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            return self._explain(error)

    def _fetch(self, connection: sqlite3.Connection, sql: str) -> Fetched:
        if _PRAGMA.match(sql):
            return ResultKind.REFUSED, [], (), "not a reading statement: pragma"
        cursor = connection.cursor()
        try:
            cursor.execute(sql)
            if cursor.description is None:
                return ResultKind.ERROR, [], (), "no statement"
            columns = tuple(name for name, *_rest in cursor.description)
            rows: list[Row] = cursor.fetchmany(_FETCH_ROWS)
            if len(rows) < _FETCH_ROWS and len(rows) <= self._limits.max_rows:
                return ResultKind.OK, rows, columns, ""
            size, batch = 0, rows
            while batch:
                size += sum(_size(row) for row in batch)
                if len(rows) > self._limits.max_rows:
                    return ResultKind.MEMORY, [], columns, f"more than {self._limits.max_rows} rows"
                if size > self._limits.max_bytes:
                    return ResultKind.MEMORY, [], columns, f"a result of more than {self._limits.max_bytes} bytes"
                batch = cursor.fetchmany(_FETCH_ROWS)
                rows += batch
            return ResultKind.OK, rows, columns, ""
        finally:
            cursor.close()

    def _explain(self, error: Exception) -> Fetched:
        message = str(error)
        if self._stopped:
            return ResultKind.TIMEOUT, [], (), self._stopped
        if self._refused:
            return ResultKind.REFUSED, [], (), self._refused
        if "one statement at a time" in message:
            return ResultKind.REFUSED, [], (), "more than one statement"
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError):
            return ResultKind.REFUSED, [], (), message
        return ResultKind.ERROR, [], (), message

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
        connection.text_factory = _decode_any  # a name in the schema may be anything
        limits = self._limits
        for pragma in (
            "query_only = ON",
            "temp_store = MEMORY",
            "cell_size_check = ON",
            f"reverse_unordered_selects = {int(reverse)}",
            f"hard_heap_limit = {(limits.memory_mib << 20) // 2}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()
        _keep_double_quoted_literals(connection)
        admit_schema(connection)
        # Before views are looked at: those of SQLite's own tables would declare them for everybody.
        connection.set_authorizer(self._authorize)
        _bound(connection, limits)
        interval = min(_HANDLER_STEPS, limits.max_steps) if limits.max_steps else _HANDLER_STEPS
        self._ticks_allowed = limits.max_steps // interval
        connection.set_progress_handler(self._tick, interval)
        connection.text_factory = str
        return connection

    def _authorize(self, action: int, first: str | None, second: str | None, database: str | None, _inner: str | None) -> int:
        if admits(action, first, second, database):
            return sqlite3.SQLITE_OK
        self._refused = f"not a reading statement: {describe(action, first, second)}"
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


def _bound(connection: sqlite3.Connection, limits: Limits) -> None:
    """Set what binds statements, but no limit so low that the database's own tables and views are beyond it."""
    for category, value in (
        (sqlite3.SQLITE_LIMIT_LENGTH, limits.max_value_bytes),
        (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, limits.max_compound),
        (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0),
        (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
        (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 10_000),
    ):
        connection.setlimit(category, value)
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
    longest = max((len(sql or "") for _name, sql in found), default=0)
    # A virtual table prepares statements of its own that name all its columns.
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, max(limits.max_sql_bytes, 8 * longest))
    names = [name for name, _sql in found if _compiles(connection, name)]
    for category, ours in (
        (sqlite3.SQLITE_LIMIT_COLUMN, limits.max_columns),
        (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, limits.max_expression_depth),
    ):
        # A view is put into the statement that names it, and counts there.
        hard = connection.setlimit(category, ours)
        while ours < hard and not all(_compiles(connection, name) for name in names):
            ours = min(2 * ours, hard)
            connection.setlimit(category, ours)


def _compiles(connection: sqlite3.Connection, name: str) -> bool:
    """Whether all columns of a table or view can be asked for."""
    try:
        connection.execute(f"EXPLAIN SELECT * FROM {always_quoted(name)}").close()
    except (sqlite3.Error, UnicodeError):
        return False
    return True
