"""Schemas of SQLite files: all that can be read is there, and nothing else."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kidcore.models.templates.template import write_schema
from kidcore.sql.schema.sqlite_reader import read, shadows_by_name
from kidcore.sql.schema.tables import ForeignKey, Schema, Table, TableKind

Make = Callable[..., Schema]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes a database of these statements and reads its schema."""

    def made(script: str, sample_rows: int = 0) -> Schema:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(script)
        return read(path, "x", sample_rows)

    return made


def table(schema: Schema, name: str) -> Table:
    return next(table for table in schema.tables if table.name == name)


def names(schema: Schema) -> dict[str, list[str]]:
    return {table.name: [column.name for column in table.columns] for table in schema.tables}


@pytest.mark.parametrize(
    ("other", "reference", "targets"),
    [
        ("x INT PRIMARY KEY", "(p) REFERENCES a", ("x",)),
        ("x INT", "(p) REFERENCES a", None),
        ("x INT PRIMARY KEY", "(p) REFERENCES gone", None),
        ("x INT PRIMARY KEY", "(p) REFERENCES gone (x)", None),
        ("x INT PRIMARY KEY", "(p) REFERENCES a (gone)", None),
        ("x INT, y INT, PRIMARY KEY (x, y)", "(p) REFERENCES a", None),
        ("x INT, y INT, PRIMARY KEY (x, y)", "(p, q) REFERENCES a", ("x", "y")),
        ("x INT, y INT, PRIMARY KEY (y, x)", "(p, q) REFERENCES a", ("y", "x")),
        ("x INT, y INT, PRIMARY KEY (x, y)", "(q, p) REFERENCES a (y, x)", ("y", "x")),
        ("X INT UNIQUE", "(p) REFERENCES A (x)", ("x",)),
    ],
)
def test_foreign_keys_lead_where_the_database_says(
    make: Make, other: str, reference: str, targets: tuple[str, ...] | None
) -> None:
    schema = make(f"CREATE TABLE a ({other}); CREATE TABLE b (p INT, q INT, FOREIGN KEY {reference})")
    keys = table(schema, "b").foreign_keys
    assert [key.targets for key in keys] == ([] if targets is None else [targets])
    assert "gone" not in write_schema(schema, "compact")


def test_several_keys_keep_the_order_of_their_declaration(make: Make) -> None:
    schema = make(
        "CREATE TABLE a (x INT PRIMARY KEY); CREATE TABLE b (p INT REFERENCES a, q INT REFERENCES a (x), r REFERENCES b (p))"
    )
    assert table(schema, "b").foreign_keys == (
        ForeignKey(("p",), "a", ("x",)),
        ForeignKey(("q",), "a", ("x",)),
        ForeignKey(("r",), "b", ("p",)),
    )


def test_generated_columns_are_columns_and_hidden_ones_are_not(make: Make) -> None:
    schema = make(
        "CREATE TABLE t (a INT, b INT AS (a * 2), c TEXT GENERATED ALWAYS AS (a || 'x') STORED, d);"
        "INSERT INTO t (a, d) VALUES (4, 'end'); CREATE VIRTUAL TABLE f USING fts5(body)",
        sample_rows=2,
    )
    assert names(schema) == {"t": ["a", "b", "c", "d"], "f": ["body"]}
    assert [column.is_generated for column in table(schema, "t").columns] == [False, True, True, False]
    assert table(schema, "t").samples == ((4, 8, "4x", "end"),)


def test_views_come_after_tables_and_unreadable_ones_do_no_harm(make: Make) -> None:
    schema = make(
        "CREATE VIEW early AS SELECT x + 1 AS more, x FROM t; CREATE TABLE t (x INT); CREATE VIEW broken AS SELECT * FROM gone;"
        "CREATE VIEW nested AS SELECT * FROM broken; CREATE VIEW inner_facts AS SELECT * FROM pragma_table_info('t');"
        "CREATE VIEW caller AS SELECT no_such_function(x) FROM t; CREATE VIEW loader AS SELECT load_extension('x');"
    )
    assert names(schema) == {"t": ["x"], "early": ["more", "x"]}
    assert table(schema, "early").kind is TableKind.VIEW
    assert "view early: more, x int\n" in write_schema(schema, "compact")
    assert "/* columns of early: more, x */" in write_schema(schema, "ddl")


@pytest.mark.parametrize(
    "body", ["SELECT count(*) AS n FROM r", "SELECT i AS n FROM r", "SELECT n.i AS n FROM r n, r m ORDER BY m.i"]
)
def test_a_view_that_runs_for_ever_is_shown_without_rows_or_with_its_first(make: Make, body: str) -> None:
    endless = "WITH RECURSIVE r (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r)"
    schema = make(f"CREATE VIEW v AS {endless} {body}", sample_rows=2)
    assert names(schema) == {"v": ["n"]}
    assert table(schema, "v").samples in ((), ((1,), (2,)))


@pytest.mark.parametrize("module", ["fts5(a, b)", "fts4(a, b)", "fts3(a, b)", "rtree(a, b, c)"])
def test_virtual_tables_are_shown_without_their_shadows(make: Make, module: str) -> None:
    schema = make(f'CREATE TABLE "v t_meta" (z INT); CREATE VIRTUAL TABLE "v t" USING {module}; CREATE TABLE content (y INT)')
    assert set(names(schema)) == {"v t_meta", "v t", "content"}
    assert names(schema)["v t"][:2] == ["a", "b"]
    assert table(schema, "v t").kind is TableKind.VIRTUAL


@pytest.mark.parametrize("module", ["fts5(a)", "fts4(a)", "rtree(a, b, c)"])
def test_shadows_are_known_by_name_where_sqlite_does_not_list_them(tmp_path: Path, module: str) -> None:
    with closing(sqlite3.connect(tmp_path / "x.sqlite")) as connection:
        connection.execute(f"CREATE VIRTUAL TABLE v USING {module}")
        listed = {row[1] for row in connection.execute("PRAGMA table_list") if row[2] == "shadow"}
    assert listed
    assert listed <= shadows_by_name({"v"})


def test_names_that_only_look_internal(make: Make) -> None:
    schema = make(
        "CREATE TABLE sqlitex (a INT); CREATE TABLE sqlite (a INT);"
        "CREATE TABLE 'sqlite x' (a INTEGER PRIMARY KEY AUTOINCREMENT);"
        "CREATE TABLE pragma_list (a INT); CREATE TABLE x_sqlite_y (a INT); ANALYZE"
    )
    assert set(names(schema)) == {"sqlitex", "sqlite", "sqlite x", "pragma_list", "x_sqlite_y"}


def test_kinds_of_tables(make: Make) -> None:
    schema = make(
        "CREATE TABLE w (a TEXT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID; CREATE TABLE s (a ANY, b INT) STRICT;"
        "CREATE TEMP TABLE gone (a); CREATE TABLE u (a, b \"odd, type\"); INSERT INTO w VALUES ('x', 1)",
        sample_rows=1,
    )
    assert names(schema) == {"w": ["a", "b"], "s": ["a", "b"], "u": ["a", "b"]}
    assert table(schema, "w").samples == (("x", 1),)
    assert [column.type for column in table(schema, "u").columns] == ["text", "odd, type"]


def test_a_column_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """A function that the program which made the database had, and nobody else has."""
    path = tmp_path / "x.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.create_function("own", 1, lambda value: value, deterministic=True)
        connection.execute("CREATE TABLE t (a INT, b INT AS (own(a)), c INT)")
    assert names(read(path, "x")) == {"t": ["a", "c"]}


def test_odd_names_can_be_copied_from_the_prompt(make: Make) -> None:
    schema = make(
        'CREATE TABLE "my table" ("a, b" INT PRIMARY KEY, "select" INT, "say ""hi""" INT, plain INT);'
        'CREATE TABLE "order" ("its key" INT REFERENCES "my table" ("a, b"))'
    )
    assert write_schema(schema, "compact") == (
        "database: x\n"
        '"my table": "a, b" int primary key, "select" int, "say ""hi""" int, plain int\n'
        '"order": "its key" int\n'
        'foreign keys: "order"."its key" = "my table"."a, b"\n'
    )
