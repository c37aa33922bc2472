"""Names as SQL has to write them: tried with the engines themselves."""

import sqlite3
from contextlib import closing
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.sql.schema.identifiers import RESERVED, always_quoted, quoted

# Where a query names a column {c} of t, or a table {t} with a column z.
PLACES = (
    "SELECT {c} FROM tt",
    "SELECT tt.{c} FROM tt",
    "SELECT z FROM tt WHERE {c} = 7",
    "SELECT z FROM tt WHERE z = 1 AND NOT {c} = 8",
    "SELECT z FROM tt ORDER BY {c}",
    "SELECT z FROM tt GROUP BY {c}, z",
    "SELECT max({c}), {c} + 1 FROM tt GROUP BY {c}",
    "SELECT DISTINCT {c}, z FROM tt LIMIT 1",
    "SELECT count(*) FROM tt AS a JOIN tt AS b ON a.{c} = b.{c}",
    "SELECT z FROM {c}",
    "SELECT {c}.z FROM {c}",
    "SELECT a.z FROM tt AS a JOIN {c} ON a.z = {c}.z",
    "SELECT a.z FROM {c} AS a, tt",
)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6) | st.sampled_from(
    [
        "order",
        "Group",
        "a b",
        "a,b",
        'say "hi"',
        "a.b",
        "1st",
        "it's",
        "%",
        "été",
        "名前",
        "हिन्दी",
        "a$b",
        "_",
        "x-y",
        "[x]",
        "`",
        "\u00a0",
    ]
)


def words(dialect: str) -> list[str]:
    """The engine's keywords, for SQLite as its parser's table has them."""
    if dialect == "duckdb":
        with duckdb.connect() as connection:
            return sorted({word for (word,) in connection.execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()})
    # Python gives no access to sqlite3_keyword_name: these are the documented ones that are not in the list of reserved ones.
    others = (
        "abort action after always analyze asc attach before begin by cascade column conflict cross current database deferred "
        "desc detach do each end exclude exclusive explain fail filter first following for full generated glob groups if ignore "
        "immediate indexed initially inner instead key last left like match materialized natural no nulls of offset others outer "
        "over partition plan pragma preceding query range recursive regexp reindex release rename replace restrict right "
        "rollback row rows savepoint temp temporary ties trigger unbounded vacuum view virtual window with without"
    )
    return sorted({*others.split(), *RESERVED["sqlite"]})


def works(connection: Any, sql: str) -> bool:
    """Whether the statement compiles."""
    try:
        connection.execute(f"EXPLAIN {sql}")
    except (sqlite3.Error, duckdb.Error):
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_exactly_the_words_that_fail_bare_are_reserved(dialect: str) -> None:
    """One list is missing a word: prompts can't be copied. One too many: prompts change without need."""
    failing = set()
    everywhere = " UNION ALL ".join(f"SELECT count(*) FROM ({place}) AS q" for place in PLACES)
    connection = sqlite3.connect(":memory:") if dialect == "sqlite" else duckdb.connect()
    with closing(connection):
        for word in words(dialect):
            for table in (word, "tt"):
                connection.execute(f'CREATE TABLE "{table}" ("{word}" INT, z INT)')
                connection.execute(f'INSERT INTO "{table}" VALUES (7, 1)')
            if not works(connection, everywhere.format(c=word)):
                failing.add(word)
            if connection.execute(f"SELECT {quoted(word, dialect)} FROM tt").fetchall() != [(7,)]:  # current_date is a value
                failing.add(word)
            connection.execute(f'DROP TABLE "{word}"')
            connection.execute("DROP TABLE tt")
    assert failing == RESERVED[dialect]


@settings(deadline=None)
@given(NAMES)
def test_a_quoted_name_means_the_name_in_sqlite(name: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE t ({always_quoted(name)} INT)")
        connection.execute("INSERT INTO t VALUES (7)")
        cursor = connection.execute(f"SELECT t.{quoted(name, 'sqlite')} FROM t")
        assert (cursor.fetchall(), cursor.description[0][0]) == ([(7,)], name)


@pytest.mark.slow
@settings(deadline=None)
@given(NAMES)
def test_a_quoted_name_means_the_name_in_duckdb(name: str) -> None:
    with duckdb.connect(":default:") as connection:
        connection.execute(f"CREATE OR REPLACE TEMP TABLE t ({always_quoted(name)} INT)")
        connection.execute("INSERT INTO t VALUES (7)")
        assert connection.execute(f"SELECT t.{quoted(name, 'duckdb')} FROM t").fetchall() == [(7,)]


@pytest.mark.parametrize("name", ["name", "Name", "année", "列", "हिन्दी", "a_1", "_x", "a$b", "key", "desc_", "rank"])
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert quoted(name, "sqlite") == quoted(name, "duckdb") == name


@pytest.mark.parametrize(
    "name", ["a b", "a,b", "a-b", "1a", "order", "ORDER", "%", "", 'x"y', "a\u200bb", "a\u00a0b", "😀", "a:b", "a\nb"]
)
def test_other_names_are_quoted(name: str) -> None:
    assert quoted(name, "sqlite") == quoted(name, "duckdb") == always_quoted(name)
