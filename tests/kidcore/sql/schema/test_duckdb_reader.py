"""Schemas of DuckDB files: schemas, types, views and what is no part of the file."""

from pathlib import Path

import duckdb
import pytest

from kidcore.models.templates.template import write_schema
from kidcore.sql.schema.duckdb_reader import read
from kidcore.sql.schema.tables import ForeignKey, Schema


def made(path: Path, *statements: str) -> Schema:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)
    return read(path, "x", sample_rows=2)


def test_tables_of_one_name_in_two_schemas_stay_two(tmp_path: Path) -> None:
    schema = made(
        tmp_path / "x.duckdb",
        "CREATE SCHEMA s",
        "CREATE TABLE s.t (a INT PRIMARY KEY)",
        "CREATE TABLE t (b INT)",
        "CREATE TABLE s.k (a INT REFERENCES s.t (a))",
        "INSERT INTO s.t VALUES (1)",
        "INSERT INTO t VALUES (2)",
    )
    assert [(table.path, [c.name for c in table.columns], table.samples) for table in schema.tables] == [
        (("t",), ["b"], ((2,),)),
        (("s", "t"), ["a"], ((1,),)),
        (("s", "k"), ["a"], ()),
    ]
    assert write_schema(schema, "compact") == (
        "database: x\nt: b integer\ns.t: a integer primary key\ns.k: a integer\nforeign keys: s.k.a = s.t.a\n"
    )


@pytest.mark.parametrize("stem", ["shop", "main", "temp", "x.y", "select", "a b", "memory"])
def test_every_name_shown_can_be_asked_for(tmp_path: Path, stem: str) -> None:
    """A schema that is called as the file is ambiguous; file names give catalogues of other names."""
    path = tmp_path / f"{stem}.duckdb"
    with duckdb.connect(str(path)) as connection:
        (catalogue,) = connection.execute("SELECT current_database()").fetchone() or ("",)
        for space in ("shop", "memory", "Odd Schema", "order"):
            connection.execute(f'CREATE SCHEMA "{catalogue}"."{space}"')
            connection.execute(f'CREATE TABLE "{catalogue}"."{space}"."t 1" ("group" INT)')
        connection.execute(f'CREATE TABLE "{catalogue}".main.t (a INT)')
    schema = read(path, "x")
    assert len(schema.tables) == 5
    with duckdb.connect(str(path), read_only=True) as connection:
        for table in schema.tables:
            columns = ", ".join(schema.quoted(*table.path, column.name) for column in table.columns)
            assert connection.execute(f"SELECT {columns} FROM {schema.quoted(*table.path)}").fetchall() == []


def test_types_keep_the_case_of_what_is_quoted(tmp_path: Path) -> None:
    schema = made(
        tmp_path / "x.duckdb",
        "CREATE TYPE mood AS ENUM ('Sad', 'it''s OK')",
        'CREATE TABLE t (m mood, s STRUCT("In Ner" INT, b VARCHAR), l VARCHAR[], d DECIMAL(10, 2), g INT AS (1 + 1))',
    )
    assert [column.type for column in schema.tables[0].columns] == [
        "enum('Sad', 'it''s OK')",
        'struct("In Ner" integer, b varchar)',
        "varchar[]",
        "decimal(10,2)",
        "integer",
    ]


def test_keys_over_several_columns(tmp_path: Path) -> None:
    schema = made(
        tmp_path / "x.duckdb",
        "CREATE TABLE a (x INT, y INT, PRIMARY KEY (y, x))",
        "CREATE TABLE b (p INT, q INT, FOREIGN KEY (p, q) REFERENCES a (y, x))",
        "CREATE TABLE c (r INT, s INT, FOREIGN KEY (r, s) REFERENCES a)",
    )
    assert [table.foreign_keys for table in schema.tables] == [
        (),
        (ForeignKey(("p", "q"), "a", ("y", "x")),),
        (ForeignKey(("r", "s"), "a", ("y", "x")),),
    ]


def test_views_that_cannot_be_read_do_no_harm(tmp_path: Path) -> None:
    """One of a table that is gone, one of a file, one of a catalogue that was attached when it was made."""
    with duckdb.connect(str(tmp_path / "other.duckdb")) as connection:
        connection.execute("CREATE TABLE t (a INT)")
    (tmp_path / "x.csv").write_text("a\n1\n")
    schema = made(
        tmp_path / "x.duckdb",
        "CREATE TABLE t (a INT)",
        "INSERT INTO t VALUES (4)",
        "CREATE TABLE gone (a INT)",
        "CREATE VIEW broken AS SELECT * FROM gone",
        "DROP TABLE gone",
        f"CREATE VIEW file AS SELECT * FROM read_csv('{tmp_path}/x.csv')",
        f"ATTACH '{tmp_path}/other.duckdb' AS other",
        "CREATE VIEW elsewhere AS SELECT * FROM other.t",
        "CREATE VIEW good AS SELECT a + 1 AS more, a FROM t",
        "CREATE TEMP TABLE passing (a INT)",
        "CREATE TABLE duckdb_x (a INT)",
        "CREATE TABLE sqlite_master2 (a INT)",
    )
    assert {table.name for table in schema.tables[:-1]} == {"t", "duckdb_x", "sqlite_master2"}
    assert schema.tables[-1].name == "good"
    assert schema.tables[-1].samples == ((5, 4),)
    assert "view good: more integer, a integer\n" in write_schema(schema, "compact")


def test_rows_in_the_log_are_read_and_nothing_is_written(tmp_path: Path) -> None:
    connection = duckdb.connect(str(tmp_path / "x.duckdb"))
    connection.execute("PRAGMA disable_checkpoint_on_shutdown")
    connection.execute("CREATE TABLE t (a INT)")
    connection.execute("INSERT INTO t VALUES (7)")
    connection.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"x.duckdb", "x.duckdb.wal"}
    assert read(tmp_path / "x.duckdb", "x", 1).tables[0].samples == ((7,),)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_rows_with_times_of_a_zone_are_shown(tmp_path: Path) -> None:
    day = "2024-01-01 02:00:00+02"
    schema = made(
        tmp_path / "x.duckdb",
        'CREATE TABLE t ("the day" TIMESTAMPTZ, n INT, s STRUCT(d TIMESTAMPTZ))',
        f"INSERT INTO t VALUES ('{day}', 1, {{'d': '{day}'}})",
    )
    assert schema.tables[0].samples == (("2024-01-01 00:00:00+00", 1, "{'d': '2024-01-01 00:00:00+00'}"),)
