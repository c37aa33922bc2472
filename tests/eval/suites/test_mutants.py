"""Neighbours of a gold: every kind of change, never the gold itself, all of it SQL; and the values columns are compared with."""

import logging
import sqlite3
from contextlib import closing

import pytest
import sqlglot

from eval.suites.mutants import literals, mutants
from tests.eval.worlds import GOLDS


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        (
            "SELECT a FROM t WHERE b = 1",
            ["WHERE b <> 1", "WHERE b >= 1", "WHERE b = 2", "WHERE b = 0", "SELECT DISTINCT a", "FROM t"],
        ),
        ("SELECT a FROM t WHERE b = 'x'", ["b = 'xx'"]),
        ("SELECT a FROM t WHERE b < 1.5", ["b < 2.5", "b < 0.5", "b <= 1.5", "b > 1.5"]),
        ("SELECT MAX(a) FROM t", ["MIN(a)"]),
        ("SELECT AVG(a) FROM t", ["SUM(a)", "MAX(a)"]),
        ("SELECT COUNT(a) FROM t", ["COUNT(DISTINCT a)"]),
        ("SELECT COUNT(DISTINCT a) FROM t", ["COUNT(a)"]),
        ("SELECT DISTINCT a FROM t", ["SELECT a FROM t"]),
        ("SELECT a FROM t ORDER BY b DESC", ["ORDER BY b", "FROM t"]),
        ("SELECT a FROM t GROUP BY a HAVING COUNT(*) > 1", ["GROUP BY a", "COUNT(*) >= 1"]),
        ("SELECT t.a FROM t JOIN u ON t.a = u.a", ["LEFT JOIN u"]),
        ("SELECT a FROM t EXCEPT SELECT b FROM t", ["INTERSECT"]),
    ],
)
def test_each_kind_of_change_is_made(sql: str, wanted: list[str]) -> None:
    found = mutants(sql)
    assert all(any(part in mutant for mutant in found) for part in wanted), found


@pytest.mark.parametrize(
    "sql", [*GOLDS[2:], "SELECT a, (SELECT MAX(b) FROM u WHERE u.a = t.a) FROM t WHERE NOT b IN (1, 2) OR c IS NULL"]
)
def test_neighbours_are_other_queries_each_once_and_always_the_same(sql: str) -> None:
    found = mutants(sql)
    assert found == mutants(sql)
    assert len(found) == len(set(found)) > 0
    original = sqlglot.parse_one(sql, read="sqlite").sql(dialect="sqlite")
    for mutant in found:
        assert mutant != original
        assert sqlglot.parse_one(mutant, read="sqlite").sql(dialect="sqlite") == mutant


@pytest.mark.parametrize(
    ("sql", "never"),
    [
        ("SELECT COUNT(*) FROM t", "DISTINCT"),
        ("SELECT a FROM t GROUP BY a", "DISTINCT"),
        ("SELECT a FROM t ORDER BY b LIMIT 1", "DISTINCT"),
        ("SELECT a FROM t WHERE a IN (SELECT b FROM u)", "IN (SELECT DISTINCT"),
        ("SELECT a FROM t UNION SELECT b FROM u", "DISTINCT"),
        # A row that LEFT adds would be dropped by WHERE again.
        ("SELECT t.a FROM t JOIN u ON t.a = u.a WHERE u.b = 1", "LEFT"),
        ("SELECT a FROM t LIMIT 3", "LIMIT 2"),
    ],
)
def test_what_could_not_show_is_not_tried(sql: str, never: str) -> None:
    assert not any(never in mutant for mutant in mutants(sql))


def test_a_flipped_order_keeps_nulls_the_smallest() -> None:
    (flipped,) = (mutant for mutant in mutants("SELECT a FROM t ORDER BY a") if "DESC" in mutant)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [(None,), (2,), (1,)])
        assert connection.execute(flipped).fetchall() == [(2,), (1,), (None,)]


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("SELECT a FROM t WHERE a = 3 AND b > 2.5", {"a": {3}, "b": {2.5}}),
        ("SELECT a FROM t WHERE 3 < A", {"a": {3}}),
        (f"SELECT a FROM t WHERE a < {10**20} OR a > {2**63 - 1}", {"a": {1e20, 2**63 - 1}}),
        ("SELECT a FROM t WHERE a > -5 OR a < -0.5", {"a": {-5, -0.5}}),
        ("SELECT a FROM t WHERE T1.name IN ('x', 'y')", {"name": {"x", "y"}}),
        ('SELECT a FROM t WHERE name = "Peru"', {"name": {"Peru"}}),
        ("SELECT a FROM t HAVING COUNT(*) > 7", {"": {7}}),
        ("SELECT a FROM t LIMIT 5 OFFSET 2", {}),
        ("SELECT a FROM t WHERE b IN (SELECT c FROM u WHERE d = 'é')", {"d": {"é"}}),
        ("DELETE FROM t WHERE a = 1", {}),
        ("no sql (", {}),
        ("", {}),
    ],
)
def test_values_by_the_column_they_are_compared_with(sql: str, values: dict[str, set[object]]) -> None:
    assert literals(sql) == values


def test_what_a_dialect_lacks_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sqlglot"):
        assert any("INTERSECT" in mutant for mutant in mutants("SELECT a FROM t UNION ALL SELECT b FROM t"))
    assert not caplog.records
