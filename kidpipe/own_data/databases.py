"""A database file or a folder of them in; copies in the layout that kidpipe reads out."""

import re
import shutil
import sqlite3
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path

from kidcore.atomic import unfinished
from kidcore.errors import KidpipeError
from kidcore.sql.column_values import description_files
from kidcore.sql.database import database_of

ENDINGS = (".sqlite", ".sqlite3", ".db", ".db3", ".duckdb")
_SQLITE_MAGIC = b"SQLite format 3\x00"
_DUCKDB_MAGIC = b"DUCK"
_LOGS = (".sqlite-wal", ".sqlite-shm", ".sqlite-journal", ".duckdb.wal")
"""What the logs of a copy, of either kind, end in."""


def find_databases(place: Path) -> dict[str, Path]:
    """Database files by id: one file, or every one in a folder and in the folders just below it.

    In a folder they go by their endings; what isn't a database after all, `kind_of` says.

    Raises:
        KidpipeError: nothing is there, or the one file is no database of SQLite or DuckDB.
    """
    if place.is_file():
        kind_of(place)
        return {database_id(place): place}
    if not place.is_dir():
        raise KidpipeError(
            f"no such file or folder: {place}", where="--database", fix="name a SQLite or DuckDB file, or a folder of them"
        )
    found: dict[str, Path] = {}
    for path in sorted([*place.glob("*"), *place.glob("*/*")]):
        # What macOS leaves beside a file it unpacked (._x.sqlite) is none.
        if path.is_file() and path.suffix.lower() in ENDINGS and not path.name.startswith("."):
            other = found.setdefault(database_id(path), path)
            if other != path:
                raise KidpipeError(
                    f"two databases would be called {database_id(path)}", where=f"{other}, {path}", fix="rename one of them"
                )
    if not found:
        raise KidpipeError(
            f"no database in {place} or in the folders just below it",
            where="--database",
            fix=f"endings looked for: {', '.join(ENDINGS)}",
        )
    return found


def database_id(path: Path) -> str:
    """The file's name as an id: letters of every script, digits, `_`, `-` and `.` stay."""
    return re.sub(r"[^\w.-]+", "_", path.stem).strip(".") or "database"


def kind_of(path: Path) -> str:
    """`sqlite` or `duckdb`, from the file's first bytes, whatever it is called."""
    with path.open("rb") as file:
        head = file.read(16)
    if head == _SQLITE_MAGIC:
        return "sqlite"
    if head[8:12] == _DUCKDB_MAGIC:
        return "duckdb"
    what = "an empty file" if not head else "neither a SQLite nor a DuckDB database"
    is_dump = path.suffix.lower() in (".sql", ".ddl")
    fix = f"make a database of it: sqlite3 {path.stem}.sqlite < {path.name}" if is_dump else "name the database file itself"
    raise KidpipeError(f"{path.name} is {what}", where=str(path), fix=fix)


def copy_databases(found: Mapping[str, Path], used: Collection[str], folder: Path) -> None:
    """Copy the databases in `used` to <folder>/<id>/<id>.sqlite or .duckdb, and what BIRD's database_description says of them.

    What another program has written but not yet checkpointed comes along: SQLite copies its database itself, and DuckDB's log
    is copied too. An older copy, of either kind, goes once the new one is whole: what is copied may be that very file.
    """
    for name in sorted(used):
        kind = kind_of(found[name])
        target = folder / name / f"{name}.{kind}"
        with unfinished(target) as copy, unfinished(_log_of(target)) as log:
            _copy(kind, found[name], copy, log)
            # The logs of an older copy first, which belong to no other file; the copy itself is replaced, never missing.
            for ending in _LOGS:
                (folder / name / f"{name}{ending}").unlink(missing_ok=True)
            copy.replace(target)
            (folder / name / f"{name}.{'sqlite' if kind == 'duckdb' else 'duckdb'}").unlink(missing_ok=True)
            if log.is_file():
                log.replace(_log_of(target))
        _copy_descriptions(found[name], target)


def _copy_descriptions(source: Path, target: Path) -> None:
    if source.parent.resolve() == target.parent.resolve():
        return
    for old in description_files(target):
        old.unlink()
    for file in description_files(source):
        copy = target.parent / file.parent.name / file.name
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)


def _copy(kind: str, source: Path, target: Path, log: Path) -> None:
    if kind == "duckdb":
        shutil.copyfile(source, target)
        if _log_of(source).is_file():
            shutil.copyfile(_log_of(source), log)
        return
    try:
        try:
            _back_up(f"{source.absolute().as_uri()}?mode=ro", target)
        except sqlite3.OperationalError as error:
            # To read a write-ahead log SQLite writes beside the database. Where it may not, as in a folder of somebody else's,
            # the file is read as it lies, or a copy of it and its log.
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise
            _back_up(f"{database_of(source).file.absolute().as_uri()}?mode=ro&immutable=1", target)
    except sqlite3.Error as error:
        is_locked = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        fix = "let the program that has it open close it" if is_locked else "check that it opens in sqlite3"
        raise KidpipeError(f"cannot be copied: {error}", where=str(source), fix=fix) from None


def _back_up(uri: str, target: Path) -> None:
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as opened, closing(sqlite3.connect(target)) as copy:
        # A lock held from here on: at a database that another program has locked, backup() by itself would wait for ever.
        opened.execute("BEGIN")
        opened.execute("SELECT 1 FROM sqlite_master LIMIT 1").close()
        opened.backup(copy)


def _log_of(database: Path) -> Path:
    """DuckDB's log of what isn't in the file yet."""
    return database.with_name(database.name + ".wal")
