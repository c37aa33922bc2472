"""A SQLite database, values worth meeting and a seed in; a database of the same schema with other contents out."""

import contextlib
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kidcore.sql.database import database_of
from kidcore.sql.schema.identifiers import always_quoted
from kidcore.sql.schema.tables import Table, TableKind

_NULL_SHARE = 0.03
_MISSING_SHARE = 0.1
_LITERAL_SHARE = 0.35
_NEAR_SHARE = 0.15
_DELETED_SHARE = 0.3
_LARGEST = 2**63 - 1
"""SQLite's integers end about there."""


@dataclass(frozen=True)
class Aim:
    """What a variant is to bring out."""

    literal_share: float = _LITERAL_SHARE
    """How many values of a column come from the literals it is compared with."""
    few: bool = False
    """Whether about half of the columns hold one to three values only, shared with columns of the same name in other tables:
    repeats, ties, averages and maxima that are met exactly."""


def make_variant(source: Path, target: Path, literals: Mapping[str, set[Any]], seed: str, aim: Aim = Aim()) -> None:
    """Write `target`: rows of `source` with their values resampled, some rows of unreferenced tables left out.

    Keys stay as they are and foreign keys point at rows that exist. `literals` are values by column name (`mutants.literals`);
    they and their neighbours are mixed in, because that is where queries differ. The same seed gives the same contents.
    """
    generator = random.Random(seed)
    shutil.copyfile(source, target)
    # Views follow their tables, and what a full-text index holds is not a column's value.
    tables = tuple(table for table in database_of(source).schema().tables if table.kind is TableKind.TABLE)
    referenced = {other.lower() for table in tables for _column, other, _target in table.links}
    with closing(sqlite3.connect(target)) as connection:
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        connection.execute("PRAGMA foreign_keys = OFF")
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {always_quoted(trigger)}")  # it would change more than is meant, or stop it
        for table in tables:
            _resample(connection, table, tables, literals, generator, table.name.lower() in referenced, aim)
        connection.commit()
        connection.execute("VACUUM")


def _resample(
    connection: sqlite3.Connection,
    table: Table,
    tables: tuple[Table, ...],
    literals: Mapping[str, set[Any]],
    generator: random.Random,
    is_referenced: bool,
    aim: Aim,
) -> None:
    name = always_quoted(table.name)
    try:
        rowids = [row[0] for row in connection.execute(f"SELECT rowid FROM {name} ORDER BY rowid")]
    except sqlite3.OperationalError:
        return  # a table WITHOUT ROWID keeps its contents
    keyed = _unique_columns(connection, table.name) | {
        target.lower() for other in tables for target in _targets(other, table.name)
    }
    foreign = {column.lower(): (other, target) for column, other, target in table.links}
    strict = {row[1].lower() for row in connection.execute(f"PRAGMA table_info({name})") if row[3]}
    fixed = keyed | {column.name.lower() for column in table.columns if column.is_primary or column.is_generated}
    together = _columns_of_joint_keys(table)
    for key in table.foreign_keys:
        lows = {column.lower() for column in key.columns}
        if len(lows) > 1 and not lows & fixed and all(together[low] == 1 for low in lows):
            rows = _references(generator, _rows(connection, key.table, key.targets), len(rowids), not lows & strict)
            _update(connection, name, key.columns, rows, rowids)
    for column in table.columns:
        low = column.name.lower()
        if low in fixed or low in together:
            continue
        if low in foreign:
            values = _references(generator, _rows(connection, foreign[low][0], foreign[low][1:]), len(rowids), low not in strict)
        else:
            pool = _part(generator, _values(connection, table.name, column.name))
            if aim.few and generator.random() < 0.5:
                pool = _few(generator, connection, tables, low)
            wanted = sorted(literals.get(low, ()), key=repr)
            values = [(_draw(generator, pool, wanted, low in strict, aim),) for _ in rowids] if pool or wanted else []
        _update(connection, name, [column.name], values, rowids)
    if not is_referenced and len(rowids) > 3:
        gone = generator.sample(rowids, int(len(rowids) * generator.uniform(0, _DELETED_SHARE)))
        with contextlib.suppress(sqlite3.Error):
            connection.executemany(f"DELETE FROM {name} WHERE rowid = ?", [(rowid,) for rowid in gone])


def _columns_of_joint_keys(table: Table) -> Counter[str]:
    """The columns, in lower case, that are drawn as others are or not at all, each with the number of keys that it is in.

    They are those of keys of several columns, whose values go together, and those of several keys, which a value drawn for one
    of them would break.
    """
    keys = [[column.lower() for column in key.columns] for key in table.foreign_keys]
    number = Counter(low for key in keys for low in key)
    return Counter({low: number[low] for key in keys for low in key if len(key) > 1 or number[low] > 1})


def _update(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], values: Sequence[Sequence[Any]], rowids: Sequence[int]
) -> None:
    """Set the columns of each row. `table` is quoted."""
    # A check or a unique index that the schema text doesn't show: such a row keeps its value.
    changes = ", ".join(f"{always_quoted(column)} = ?" for column in columns)
    updates = ((*row, rowid) for row, rowid in zip(values, rowids, strict=False))
    # A STRICT column may refuse a value, and an index may need a collation that nobody has: the column keeps its values.
    with contextlib.suppress(sqlite3.Error):
        connection.executemany(f"UPDATE OR IGNORE {table} SET {changes} WHERE rowid = ?", updates)


def _references(generator: random.Random, targets: list[tuple[Any, ...]], number: int, may_miss: bool) -> list[tuple[Any, ...]]:
    """References to some of the targets, so that others are never referred to; a few are missing where the columns admit it."""
    pool = _part(generator, targets)
    missing = _MISSING_SHARE if may_miss else 0.0
    none = (None,) * len(pool[0]) if pool else ()
    return [none if generator.random() < missing else generator.choice(pool) for _ in range(number)] if pool else []


def _part(generator: random.Random, pool: list[Any]) -> list[Any]:
    """Some of the values, so that repeats and ties come about."""
    return generator.sample(pool, generator.randint(max(1, len(pool) // 8), len(pool))) if pool else []


def _few(generator: random.Random, connection: sqlite3.Connection, tables: tuple[Table, ...], column: str) -> list[Any]:
    """One to three values of the columns of that name, in whichever tables."""
    names = [(table.name, other.name) for table in tables for other in table.columns if other.name.lower() == column]
    pool = sorted({value for name in names for value in _values(connection, *name)}, key=repr)
    return generator.sample(pool, min(len(pool), generator.choice((1, 1, 2, 3))))


def _draw(generator: random.Random, pool: list[Any], wanted: list[Any], is_strict: bool, aim: Aim) -> Any:
    chance = generator.random()
    if chance < _NULL_SHARE and not is_strict:
        return None
    if wanted and (chance < _NULL_SHARE + aim.literal_share or not pool):
        return _near(generator, generator.choice(wanted), generator.random() < 0.5)
    return _near(generator, generator.choice(pool), not aim.few and generator.random() < _NEAR_SHARE)


def _near(generator: random.Random, value: Any, moved: bool) -> Any:
    """The value, or one that a query could take for it."""
    if isinstance(value, bool) or value is None or isinstance(value, bytes):
        return value
    if isinstance(value, (int, float)):
        near = value + generator.choice((-1, 1)) if moved else value
        return near if isinstance(near, float) or abs(near) < _LARGEST else value
    text = value.replace("%", generator.choice(("", "", "x"))).replace("_", "a") if "%" in value else value
    if not moved:
        return text
    return generator.choice((text + "x", "x" + text, text.swapcase(), text[:-1]))


def _values(connection: sqlite3.Connection, table: str, column: str) -> list[Any]:
    """A column's distinct values other than NULL, in an order that doesn't depend on the file."""
    return [row[0] for row in _rows(connection, table, [column])]


def _rows(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The distinct values that some columns have together, without NULL, in an order that doesn't depend on the file."""
    names = [always_quoted(column) for column in columns]
    there = " AND ".join(f"{name} IS NOT NULL" for name in names)
    query = f"SELECT DISTINCT {', '.join(names)} FROM {always_quoted(table)} WHERE {there}"
    try:
        return sorted(connection.execute(query), key=repr)
    except sqlite3.OperationalError:
        return []  # a foreign key that names a table or column which isn't there


def _unique_columns(connection: sqlite3.Connection, table: str) -> set[str]:
    names: set[str] = set()
    for _number, index, is_unique, *_rest in connection.execute(f"PRAGMA index_list({always_quoted(table)})").fetchall():
        if is_unique:
            names |= {str(row[2]).lower() for row in connection.execute(f"PRAGMA index_info({always_quoted(index)})")}
    return names


def _targets(table: Table, referenced: str) -> list[str]:
    return [target for _column, other, target in table.links if other.lower() == referenced.lower()]
