"""A Database specification and a seed in; its rows, its SQLite file and its tables.json entry out."""

import datetime
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

from kidcore.atomic import replacing
from kidpipe.demo.spec import ColumnSpec, Database, TableSpec

Value = int | str
TableRows = dict[str, list[tuple[Value, ...]]]
"""The rows of each table by table name, in key order."""

_SPIDER_TYPES = {"name": "text", "category": "text", "date": "time"}
# Parents at the end of their table stay without children, so that "has no ..." questions have an answer.
_CHILDLESS_SHARE = 0.15


def make_rows(database: Database, seed: int) -> TableRows:
    """The content of `database`: a function of its specification and `seed` only."""
    rows: TableRows = {}
    for table in database.tables:
        rng = Random(f"{seed}:{database.name}:{table.name}")
        columns = [_column_values(column, table, database, rng) for column in table.columns]
        rows[table.name] = list(zip(*columns, strict=True))
    return rows


def _column_values(column: ColumnSpec, table: TableSpec, database: Database, rng: Random) -> list[Value]:
    count = table.num_rows
    if column.kind == "key":
        return list(range(1, count + 1))
    if column.kind == "link":
        return _link_values(database.table(column.target).num_rows, count, rng)
    if column.kind == "name":
        return list(rng.sample(column.pool, count))
    if column.kind == "category":
        return list(rng.choices(column.pool, k=count))
    if column.kind == "number":
        choices = range(column.low, column.high + 1, column.step)
        return list(rng.sample(choices, count) if len(choices) >= count else rng.choices(choices, k=count))
    first = datetime.date(column.low, 1, 1)
    days = (datetime.date(column.high, 12, 31) - first).days
    return [(first + datetime.timedelta(days=day)).isoformat() for day in rng.sample(range(days), count)]


def _link_values(num_parents: int, count: int, rng: Random) -> list[Value]:
    """Keys of parents, some much more often than others, so that "the one with the most ..." is rarely a tie."""
    linked = max(1, num_parents - max(1, round(_CHILDLESS_SHARE * num_parents)))
    weights = [rng.random() + 0.15 for _ in range(linked)]
    return list(rng.choices(range(1, linked + 1), weights=weights, k=count))


def create_statement(table: TableSpec, database: Database) -> str:
    """CREATE TABLE with types, primary key and foreign keys."""
    lines = [f"  {column.name} {column.sql_type}" + (" PRIMARY KEY" if column.kind == "key" else "") for column in table.columns]
    for column in table.links:
        target = database.table(column.target)
        lines.append(f"  FOREIGN KEY ({column.name}) REFERENCES {target.name}({target.key.name})")
    return f"CREATE TABLE {table.name} (\n" + ",\n".join(lines) + "\n)"


def write_sqlite(database: Database, rows: TableRows, path: Path) -> None:
    """A new SQLite file at `path`; the same rows give the same bytes (with the same SQLite version)."""
    with replacing(path) as unfinished, closing(sqlite3.connect(unfinished)) as connection, connection:
        for table in database.tables:
            connection.execute(create_statement(table, database))
            places = ", ".join("?" * len(table.columns))
            connection.executemany(f"INSERT INTO {table.name} VALUES ({places})", rows[table.name])


def tables_entry(database: Database) -> dict[str, object]:
    """The entry of `database` in Spider's tables.json."""
    columns = [(index, column) for index, table in enumerate(database.tables) for column in table.columns]
    position = {(database.tables[index].name, column.name): place for place, (index, column) in enumerate(columns, 1)}
    return {
        "db_id": database.name,
        "table_names_original": [table.name for table in database.tables],
        "table_names": [table.name.replace("_", " ") for table in database.tables],
        "column_names_original": [[-1, "*"], *([index, column.name] for index, column in columns)],
        "column_names": [[-1, "*"], *([index, column.name.replace("_", " ")] for index, column in columns)],
        "column_types": ["text", *(_SPIDER_TYPES.get(column.kind, "number") for _, column in columns)],
        "primary_keys": [position[table.name, table.key.name] for table in database.tables],
        "foreign_keys": [
            [position[child.name, link.name], position[parent.name, parent.key.name]] for child, link, parent in database.links()
        ],
    }
