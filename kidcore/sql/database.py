"""A file in, the database in it: its identity, its schema, its dialect and the jobs that execute SQL on it.

`SqliteDatabase` and `DuckdbDatabase` are the two kinds there are; which one a file is, its first bytes say.
"""

import atexit
import os
import shutil
import sqlite3
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from kidcore.config.digests import FileDigests
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.sql.sandbox.job import Job
from kidcore.sql.schema import sqlite_reader
from kidcore.sql.schema.tables import Schema
from kidcore.sql.text_files import visible

_SQLITE_HEADER = b"SQLite format 3\0"
_DUCKDB_HEADER = b"DUCK"
"""At the ninth byte."""


@dataclass(frozen=True)
class Database(ABC):
    """One database, whether or not it can be used: `fault` says.

    Args:
        path: the file.
        db_id: what the data set calls it.
        refusal: why the file is not even to be looked at; empty where it may be.
    """

    path: Path
    db_id: str
    refusal: str = ""

    engine: ClassVar[str]
    """Its name, which is also what sqlglot calls the dialect."""

    @property
    def dialect(self) -> str:
        """What sqlglot calls the SQL it speaks."""
        return self.engine

    @property
    def fault(self) -> KidpipeError | None:
        """Why it can't be used; None where it can."""
        what, fix = self._fault()
        return KidpipeError(what, where=str(self.path), fix=fix) if what else None

    def _fault(self) -> tuple[str, str]:
        if self.refusal:
            return self.refusal, "mend the db_id, or set the example aside"
        kind, reason = _kind(self.path)
        if kind != "file":
            fix = _alike(self.path) or "set data.databases to the folder that holds it"
            return {"missing": "database missing", "folder": "database is a folder"}.get(kind, f"database {reason}"), fix
        again = "copy it from its source again"
        try:
            engine = _engine_of(self.path)
        except OSError as error:
            return f"database can't be read: {error.strerror}", "give the user that runs kidpipe the right to read it"
        if engine is None:
            return ("database is empty: 0 bytes" if reason == "empty" else "database unreadable: file is not a database"), again
        try:
            _ = self.file
        except (OSError, sqlite3.Error) as error:
            return f"database has a log beside it that can't be read: {error}", "let the program that wrote it close it"
        return "", ""

    @property
    def file(self) -> Path:
        """The file to execute on: with all that was committed, nothing of it only in a log beside it."""
        return self.path

    def digest(self, digests: FileDigests) -> str:
        """Changes when and only when what can be read of the database changes; "missing" where there is no file."""
        if _kind(self.path)[0] != "file" or self.refusal:
            return "missing"
        logs = [digests.digest(log) for log in self._logs()]
        content = digests.digest(self.path)
        return fingerprint([content, *logs]) if logs else content

    def schema(self, sample_rows: int = 0) -> Schema:
        """Its readable tables and views, with the first `sample_rows` rows of each.

        Raises:
            KidpipeError: it has a fault, or is damaged.
        """
        if fault := self.fault:
            raise fault
        return self._schema(sample_rows)

    def job(self, sql: str, key: Any = None, reverse: bool = False) -> Job:
        """What a sandbox is asked to execute `sql` on it; where it has a fault, that becomes the job's result."""
        fault = self.fault
        return Job(str(self.path if fault else self.file), sql, key, reverse, fault.what if fault else "")

    def _logs(self) -> list[Path]:
        """Files beside it that hold what it doesn't yet."""
        return [log for log in self._log_names() if _kind(log) == ("file", "")]

    @abstractmethod
    def _log_names(self) -> Iterator[Path]: ...

    @abstractmethod
    def _schema(self, sample_rows: int) -> Schema: ...

    def _unreadable(self, error: Exception) -> KidpipeError:
        return KidpipeError(f"database unreadable: {error}", where=str(self.path), fix="copy it from its source again")


class SqliteDatabase(Database):
    """A SQLite file."""

    engine = "sqlite"

    @property
    def file(self) -> Path:
        """The file itself, or a settled copy where a write-ahead log or a journal beside it belongs to its contents.

        Opened as immutable, as everything here is, SQLite would not see those; opened otherwise it would write beside
        the file.
        """
        logs = tuple((log, log.stat().st_size, log.stat().st_mtime_ns) for log in self._logs())
        return _settled(self.path, self.path.stat().st_mtime_ns, logs) if logs else self.path

    def _log_names(self) -> Iterator[Path]:
        return (self.path.with_name(self.path.name + suffix) for suffix in ("-wal", "-journal"))

    def _schema(self, sample_rows: int) -> Schema:
        try:
            return sqlite_reader.read(self.file, self.db_id, sample_rows)
        except sqlite3.Error as error:
            raise self._unreadable(error) from None


class DuckdbDatabase(Database):
    """A DuckDB file. It reads its own log without writing."""

    engine = "duckdb"

    def _log_names(self) -> Iterator[Path]:
        return iter([self.path.with_name(self.path.name + ".wal")])

    def _schema(self, sample_rows: int) -> Schema:
        import duckdb  # takes a moment to load, and most data sets have no such file

        from kidcore.sql.schema import duckdb_reader

        try:
            return duckdb_reader.read(self.path, self.db_id, sample_rows)
        except duckdb.Error as error:
            raise self._unreadable(error) from None


def database_of(source: "Database | Path", db_id: str = "") -> Database:
    """The database in a file; one that is a Database already comes back as it is."""
    if isinstance(source, Database):
        return source
    engine = None
    with suppress(OSError):
        engine = _engine_of(source) if _kind(source)[0] == "file" else None
    is_duck = engine == "duckdb" or (engine is None and source.suffix == ".duckdb")
    return (DuckdbDatabase if is_duck else SqliteDatabase)(source, db_id or source.stem)


def database_in(folder: Path, db_id: str) -> Database:
    """The database of `db_id` in a data set's folder, DuckDB's where there is one, else SQLite's; it may be missing.

    A db_id is the name of a folder there. One that would lead anywhere else gives a database with a fault.
    """
    name = os.fsencode(db_id) if visible(db_id) == db_id else b""
    if db_id in ("", ".", "..") or any(mark in db_id for mark in "/\\\0") or not name:
        return SqliteDatabase(folder, db_id, f"db_id {db_id[:80]!r} does not name a folder of databases")
    if len(name) > 240:  # with its suffix a file's name may have 255 bytes
        return SqliteDatabase(folder, db_id, f"db_id {db_id[:80]!r} is longer than a file's name can be")
    duck = folder / db_id / f"{db_id}.duckdb"
    # Not by exists(), which raises where the folder may not be looked into. An empty file is what a failed try leaves.
    is_duck = _kind(duck) not in (("missing", ""), ("file", "empty"))
    return database_of(duck if is_duck else folder / db_id / f"{db_id}.sqlite", db_id)


def _alike(path: Path) -> str:
    """What there is in place of a missing database: the same name with another ending, elsewhere or in other letters."""
    for place, name, wanted in ((path.parent, path.name, path.stem), (path.parent.parent, path.parent.name, path.parent.name)):
        try:
            found = sorted(entry.name for entry in place.iterdir() if wanted and entry.stem.lower() == wanted.lower())
        except OSError:
            continue
        if near := [other for other in found if other != name]:
            return f"there is {place / near[0]}; if that is it, it has to be {path}"
    return ""


def _kind(path: Path) -> tuple[str, str]:
    """missing, folder, other or file, and what more there is to say. Never opens: a pipe would wait for a writer."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return "missing", ""
    except (OSError, ValueError) as error:
        return "other", f"can't be reached: {error}"
    if stat.S_ISDIR(found.st_mode):
        return "folder", ""
    if not stat.S_ISREG(found.st_mode):
        return "other", "is no file: a pipe or a device"
    return "file", "" if found.st_size else "empty"


def _engine_of(path: Path) -> str | None:
    """By the first bytes of a file; None where they are neither engine's. Raises OSError where they can't be read."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[8:12] == _DUCKDB_HEADER:
        return "duckdb"
    return "sqlite" if head == _SQLITE_HEADER else None


@lru_cache(maxsize=256)
def _settled(path: Path, _changed_ns: int, logs: tuple[tuple[Path, int, int], ...]) -> Path:
    """A copy with the contents of the logs in it, kept until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="kidpipe-settled-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for file in (path, *(log for log, _size, _time in logs)):
        shutil.copyfile(file, folder / file.name)
    with closing(sqlite3.connect(folder / path.name)) as connection:
        # SQLite itself decides what of a log counts: a journal that was rolled back already does not.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    return folder / path.name
