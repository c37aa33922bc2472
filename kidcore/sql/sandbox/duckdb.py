"""The inner ring for DuckDB: one SELECT on a read-only, locked, offline instance; imported only where such a file turns up."""

import decimal
import math
import threading
from collections.abc import Sequence
from typing import Any

import duckdb

from kidcore.sql.sandbox.job import Job, Limits, ResultKind, Row
from kidcore.sql.sandbox.sqlite import Fetched
from kidcore.sql.schema.identifiers import always_quoted

_CONNECTIONS_KEPT = 4
_FETCH_ROWS = 1024
_ZONED = "TIMESTAMP WITH TIME ZONE"


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
            return ResultKind.ERROR, [], 0, f"cannot open database: {error}"
        self._is_late = False
        cursor = connection.cursor()
        timer = threading.Timer(self._limits.timeout_s, self._interrupt, [cursor])
        timer.start()
        try:
            return self._run(cursor, job.sql)
        except duckdb.Error as error:
            return self._explain(error)
        except (ValueError, OverflowError, RuntimeError) as error:
            return ResultKind.ERROR, [], 0, str(error)
        finally:
            timer.cancel()
            cursor.close()

    def _run(self, cursor: Any, sql: str) -> Fetched:
        statements = cursor.extract_statements(sql)
        if not statements:
            return ResultKind.ERROR, [], 0, "no statement"
        if len(statements) > 1:
            return ResultKind.REFUSED, [], 0, "more than one statement"
        kind = statements[0].type
        if kind != duckdb.StatementType.SELECT:
            return ResultKind.REFUSED, [], 0, f"not a reading statement: {kind.name.lower()}"
        cursor.execute(statements[0])
        zoned = [_ZONED in str(kind) for _name, kind, *_rest in cursor.description or ()]
        if any(zoned):
            cursor.execute(_zones_as_text(statements[0].query, zoned))
        num_columns = len(zoned)
        if num_columns > self._limits.max_columns:
            return ResultKind.REFUSED, [], 0, f"more than {self._limits.max_columns} columns"
        rows: list[Row] = []
        size = 0
        while batch := cursor.fetchmany(_FETCH_ROWS):
            plain = [tuple(map(_plain, row)) for row in batch]
            if any(zoned):
                plain = [tuple(map(_tagged, row, zoned)) for row in plain]
            size += sum(_size(row) for row in plain)
            rows += plain
            if len(rows) > self._limits.max_rows:
                return ResultKind.MEMORY, [], num_columns, f"more than {self._limits.max_rows} rows"
            if size > self._limits.max_bytes:
                return ResultKind.MEMORY, [], num_columns, f"a result of more than {self._limits.max_bytes} bytes"
        return ResultKind.OK, rows, num_columns, ""

    def _interrupt(self, cursor: Any) -> None:
        self._is_late = True
        cursor.interrupt()

    def _explain(self, error: Exception) -> Fetched:
        if self._is_late:
            return ResultKind.TIMEOUT, [], 0, f"more than {self._limits.timeout_s:g} s"
        if isinstance(error, duckdb.OutOfMemoryException):
            return ResultKind.MEMORY, [], 0, f"needs more than {self._limits.memory_mib} MiB of memory"
        if isinstance(error, duckdb.PermissionException) or "read-only mode" in str(error):
            return ResultKind.REFUSED, [], 0, str(error)
        return ResultKind.ERROR, [], 0, str(error)

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


def _zones_as_text(sql: str, zoned: Sequence[bool]) -> str:
    """The query with those columns as text: Python values of them need a package that DuckDB doesn't bring."""
    names = [f"c{number}" for number in range(len(zoned))]
    chosen = [f"CAST({name} AS VARCHAR)" if is_zoned else name for name, is_zoned in zip(names, zoned, strict=True)]
    return f"SELECT {', '.join(chosen)} FROM ({sql.rstrip('; ')}\n) AS answer({', '.join(names)})"


def _tagged(value: Any, is_zoned: bool) -> Any:
    return ("datetime", value) if is_zoned and value is not None else value


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


def _plain(value: Any) -> Any:
    """A value that compares by content and can leave the process; what Python has no plain type for goes as tagged text."""
    if value is None or isinstance(value, (int, str, bytes)):
        return value
    if isinstance(value, float):
        return ("nan",) if math.isnan(value) else value  # NaN equals NaN here, as NULL equals NULL
    if isinstance(value, decimal.Decimal):  # a DECIMAL 1.50 is the DOUBLE 1.5
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (list, tuple)):
        return ("list", *(_plain(item) for item in value))
    if isinstance(value, dict):
        return ("struct", *((str(name), _plain(item)) for name, item in sorted(value.items(), key=str)))
    return (type(value).__name__, str(value))


def _size(row: Row) -> int:
    return 8 * len(row) + sum(len(value) for value in row if isinstance(value, (str, bytes, tuple)))
