"""Queries whose ORDER BY lists get tie-breakers: where each list ends, and that the two variants part exactly on ties."""

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.ties import opposite_ties


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t",
        "SELECT a FROM t WHERE b = 'x ORDER BY y'",
        'SELECT "ORDER BY" FROM t',
        "SELECT RANK() OVER (PARTITION BY b ORDER BY a) FROM t",
        "SELECT GROUP_CONCAT(a ORDER BY b) FROM t",
        "SELECT a FROM t -- ORDER BY a",
        "SELECT order_by FROM t ORDER",
        "",
    ],
)
def test_what_orders_no_result_has_no_ties(sql: str) -> None:
    assert opposite_ties(sql, 1) is None


@pytest.mark.parametrize(
    ("sql", "columns", "torn"),
    [
        ("SELECT a FROM t ORDER BY b", 1, "SELECT a FROM t ORDER BY b, 1 {} "),
        ("SELECT a, b FROM t ORDER BY b LIMIT 1", 2, "SELECT a, b FROM t ORDER BY b, 1 {}, 2 {}  LIMIT 1"),
        ("SELECT a FROM t ORDER BY b;", 1, "SELECT a FROM t ORDER BY b, 1 {} ;"),
        (
            "SELECT a FROM t UNION SELECT b FROM t ORDER BY 1 DESC",
            1,
            "SELECT a FROM t UNION SELECT b FROM t ORDER BY 1 DESC, 1 {} ",
        ),
        (
            "WITH x AS (SELECT a FROM t ORDER BY b LIMIT 2) SELECT a FROM x",
            1,
            "WITH x AS (SELECT a FROM t ORDER BY b, 1 {}  LIMIT 2) SELECT a FROM x",
        ),
        ("SELECT a FROM t ORDER BY max(a, (b))", 1, "SELECT a FROM t ORDER BY max(a, (b)), 1 {} "),
        # A subquery shows one column whatever the outer one shows.
        ("SELECT a, (SELECT b FROM t ORDER BY a) FROM t", 2, "SELECT a, (SELECT b FROM t ORDER BY a, 1 {} ) FROM t"),
    ],
)
def test_the_lists_end_where_they_end(sql: str, columns: int, torn: str) -> None:
    count = torn.count("{}")
    assert opposite_ties(sql, columns) == (torn.format(*["ASC"] * count), torn.format(*["DESC"] * count))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=6), limit=st.integers(1, 4))
def test_the_variants_differ_exactly_where_the_cut_falls_into_a_tie(rows: list[tuple[int, int]], limit: int) -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE t (a, b)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", rows)
        torn = opposite_ties(f"SELECT a FROM t ORDER BY b LIMIT {limit}", 1)
        assert torn is not None
        results = [sorted(connection.execute(sql).fetchall()) for sql in torn]
    connection.close()
    ordered = sorted(rows, key=lambda row: row[1])
    cut, rest = ordered[:limit], ordered[limit:]
    tied = [row[0] for row in rest if cut and row[1] == cut[-1][1]]
    inside = [row[0] for row in cut if row[1] == cut[-1][1]]
    assert (results[0] != results[1]) is (bool(tied) and len({*tied, *inside}) > 1)
