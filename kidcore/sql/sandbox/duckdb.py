"""The inner ring for DuckDB: one SELECT on a read-only, locked, offline instance; imported only where such a file turns up."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import duckdb

from kidcore.sql.lexer import TokenKind, strip_end, tokens
from kidcore.sql.sandbox.duckdb_values import plain, text_reader
from kidcore.sql.sandbox.job import Job, Limits, ResultKind, Row
from kidcore.sql.sandbox.sqlite import Fetched
from kidcore.sql.schema.identifiers import always_quoted

_CONNECTIONS_KEPT = 4
_FETCH_ROWS = 1024
_PIVOTING = ("PIVOT", "PIVOT_WIDER", "SELECT", "FROM", "WITH")
"""How a query that pivots may begin; EXPLAIN, COPY and CREATE ... AS it begin otherwise."""


class DuckdbEngine:
    """Executes statements on DuckDB files under `limits`, keeping recently used instances open."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections: dict[str, Any] = {}
        self._is_late = False

    def execute(self, job: Job) -> Fetched:
        """Run one job; every way a statement can fail is a kind of result."""
        try:
            connection = self._connect(job.database)
        except duckdb.Error as error:
            return ResultKind.ERROR, [], (), f"cannot open database: {error}"
        self._is_late = False
        cursor = connection.cursor()
        timer = threading.Timer(self._limits.timeout_s, self._interrupt, [cursor])
        timer.start()
        try:
            return self._run(cursor, job.sql)
        except duckdb.Error as error:
            return self._explain(error)
        except (ValueError, OverflowError, RuntimeError) as error:
            return ResultKind.ERROR, [], (), str(error)
        finally:
            timer.cancel()
            cursor.close()

    def _run(self, cursor: Any, sql: str) -> Fetched:
        statements = cursor.extract_statements(sql)
        if not statements:
            return ResultKind.ERROR, [], (), "no statement"
        if len(statements) > 1:
            return ResultKind.REFUSED, [], (), "more than one statement"
        kind = statements[0].type
        if kind != duckdb.StatementType.SELECT and not (kind == duckdb.StatementType.MULTI and _is_pivot(sql)):
            return ResultKind.REFUSED, [], (), f"not a reading statement: {kind.name.lower()}"
        cursor.execute(statements[0])
        description = cursor.description or ()
        columns = tuple(name for name, *_rest in description)
        readers = [text_reader(kind) for _name, kind, *_rest in description]
        if any(readers):
            cursor.execute(_as_text(statements[0].query, [reader is not None for reader in readers]))
        if len(columns) > self._limits.max_columns:
            return ResultKind.REFUSED, [], (), f"more than {self._limits.max_columns} columns"
        rows: list[Row] = []
        size = 0
        while batch := cursor.fetchmany(_FETCH_ROWS):
            found = [tuple(map(plain, row)) for row in batch]
            if any(readers):
                found = [tuple(map(_read, row, readers)) for row in found]
            size += sum(_size(row) for row in found)
            rows += found
            if len(rows) > self._limits.max_rows:
                return ResultKind.MEMORY, [], columns, f"more than {self._limits.max_rows} rows"
            if size > self._limits.max_bytes:
                return ResultKind.MEMORY, [], columns, f"a result of more than {self._limits.max_bytes} bytes"
        return ResultKind.OK, rows, columns, ""

    def _interrupt(self, cursor: Any) -> None:
        self._is_late = True
        cursor.interrupt()

    def _explain(self, error: Exception) -> Fetched:
        if self._is_late:
            return ResultKind.TIMEOUT, [], (), f"more than {self._limits.timeout_s:g} s"
        if isinstance(error, duckdb.OutOfMemoryException):
            return ResultKind.MEMORY, [], (), f"needs more than {self._limits.memory_mib} MiB of memory"
        if isinstance(error, duckdb.PermissionException) or "read-only mode" in str(error):
            return ResultKind.REFUSED, [], (), str(error)
        return ResultKind.ERROR, [], (), str(error)

    def _connect(self, database: str) -> Any:
        if database not in self._connections:
            while len(self._connections) >= _CONNECTIONS_KEPT:
                self._connections.pop(next(iter(self._connections))).close()
            self._connections[database] = self._open(database)
        return self._connections[database]

    def _open(self, database: str) -> Any:
        """Opened without outside access; nothing of it can be changed afterwards."""
        connection = duckdb.connect(
            database,
            read_only=True,
            config={
                "enable_external_access": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "memory_limit": f"{self._limits.memory_mib // 2}MiB",
                "max_temp_directory_size": "0KiB",
                "temp_directory": "",
                "threads": 1,
                "python_enable_replacements": False,
            },
        )
        _bound_depth(connection, self._limits.max_expression_depth)
        connection.execute("SET lock_configuration = true")
        return connection


def _is_pivot(sql: str) -> bool:
    """Whether what DuckDB takes for several statements is a query that pivots: it looks up the columns first, and then reads."""
    solid = (token for token in tokens(sql, "duckdb") if token.kind is not TokenKind.SPACE and token.text != "(")
    first = next(solid, None)
    return first is not None and any(map(first.is_word, _PIVOTING))


def _as_text(sql: str, wanted: Sequence[bool]) -> str:
    """The query with those of its columns as text that are wanted so."""
    names = [f"c{number}" for number in range(len(wanted))]
    chosen = [f"CAST({name} AS VARCHAR)" if is_wanted else name for name, is_wanted in zip(names, wanted, strict=True)]
    return f"SELECT {', '.join(chosen)} FROM ({strip_end(sql, 'duckdb')}\n) AS answer({', '.join(names)})"


def _read(value: Any, reader: Callable[[str], Any] | None) -> Any:
    return value if reader is None or value is None else reader(value)


def _bound_depth(connection: Any, ours: int) -> None:
    """Bound the depth of expressions, but not below what the database's own views need: they count where they are named."""
    (hard,) = connection.execute("SELECT current_setting('max_expression_depth')").fetchone()
    views = connection.execute(
        "SELECT database_name, schema_name, view_name FROM duckdb_views() WHERE NOT internal AND NOT temporary"
    ).fetchall()
    names = [name for row in views if _binds(connection, name := ".".join(map(always_quoted, row)))]
    connection.execute(f"SET GLOBAL max_expression_depth = {ours}")
    while ours < int(hard) and not all(_binds(connection, name) for name in names):
        ours = min(2 * ours, int(hard))
        connection.execute(f"SET GLOBAL max_expression_depth = {ours}")


def _binds(connection: Any, name: str) -> bool:
    """Whether all columns of a view can be asked for."""
    # A new cursor: settings for all count for those that are opened after them.
    with connection.cursor() as cursor:
        try:
            cursor.execute(f"DESCRIBE SELECT * FROM {name}")
        except duckdb.Error:
            return False
        return True


def _size(row: Row) -> int:
    return 8 * len(row) + sum(len(value) for value in row if isinstance(value, (str, bytes, tuple)))
