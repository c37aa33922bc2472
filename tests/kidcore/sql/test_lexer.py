"""Tokens and the questions asked of them: order, DISTINCT, operators torn apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kidcore.sql.lexer import is_ordered, mend_operators, mend_year, strip_distinct, strip_end, tokens


@given(st.text(), st.sampled_from(["sqlite", "duckdb"]))
def test_tokens_put_together_are_the_text(text: str, dialect: str) -> None:
    assert "".join(token.text for token in tokens(text, dialect)) == text


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT [']'] FROM t ORDER BY a", True),
        ("SELECT ['it''s ]'] AS b FROM t ORDER BY a", True),
        ("SELECT $$ ORDER BY $$ FROM t", False),
        ("SELECT $x$ ' $$ $x$ FROM t ORDER BY a", True),
        ("SELECT e'it\\'s' FROM t ORDER BY a", True),
        ("SELECT list(a ORDER BY a) FROM t", False),
        ("SELECT [x FOR x IN [1, 2]] FROM t ORDER BY ALL", True),
        ("FROM t ORDER BY a // 2", True),
    ],
)
def test_duckdb_has_quotes_of_its_own(sql: str, ordered: bool) -> None:
    assert is_ordered(sql, "duckdb") is ordered


@pytest.mark.parametrize("end", ["", ";", " ; -- the times", "\n/* ; */ ;;\n", "-- a\n-- b"])
@pytest.mark.parametrize("sql", ["SELECT ';'", "SELECT $$ -- ;$$", "SELECT a -- b\nFROM t"])
def test_what_a_statement_ends_in_goes(sql: str, end: str) -> None:
    assert strip_end(sql + end, "duckdb") == sql


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order  \n by a", True),
        ("SELECT a FROM t ORDER/**/BY a", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT a FROM t WHERE a IN (SELECT a FROM t ORDER BY a LIMIT 1)", False),
        ("SELECT a FROM t WHERE b = 'order by'", False),
        ('SELECT a FROM t WHERE b = "x order by"', False),
        ("SELECT a FROM t -- order by a", False),
        ("SELECT RANK() OVER (ORDER BY a) FROM t", False),
        ("WITH x AS (SELECT a FROM t ORDER BY a) SELECT a FROM x", False),
        ("WITH x AS (SELECT a FROM t) SELECT a FROM x ORDER BY a", True),
        ("SELECT a FROM t UNION SELECT b FROM t ORDER BY 1", True),
        ("(SELECT a FROM t ORDER BY a)", True),
        ("((SELECT a FROM t ORDER BY a LIMIT 1));", True),
        ("(SELECT a FROM t) UNION (SELECT a FROM t ORDER BY a)", False),
        ("SELECT border FROM t GROUP BY a", False),
        ("", False),
        ("ORDER", False),
    ],
)
def test_is_ordered_looks_at_the_outermost_query(sql: str, ordered: bool) -> None:
    assert is_ordered(sql) is ordered


def test_strip_distinct_leaves_quoted_text_alone() -> None:
    sql = "SELECT DISTINCT a, COUNT(distinct b) FROM t WHERE c = 'DISTINCT' AND \"distinct\" = 1"
    assert strip_distinct(sql) == "SELECT  a, COUNT( b) FROM t WHERE c = 'DISTINCT' AND \"distinct\" = 1"


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
@pytest.mark.parametrize(
    ("sql", "stripped"),
    [
        ("SELECT b FROM t WHERE a IS DISTINCT FROM 'x'", None),
        ("SELECT b FROM t WHERE a is /* so */ not\ndistinct from 'x'", None),
        ("SELECT DISTINCT b FROM t WHERE a IS NOT DISTINCT FROM c", "SELECT  b FROM t WHERE a IS NOT DISTINCT FROM c"),
        ("SELECT DISTINCT ON (a) a, b FROM t", None),
        ("SELECT DISTINCT ON(a) count(DISTINCT b) FROM t", "SELECT DISTINCT ON(a) count( b) FROM t"),
        ("SELECT a IS NOT NULL, DISTINCT FROM t", "SELECT a IS NOT NULL,  FROM t"),
        ("SELECT count(DISTINCT a) FROM t", "SELECT count( a) FROM t"),
        ("DISTINCT", ""),
    ],
)
def test_strip_distinct_leaves_what_compares_or_chooses(sql: str, stripped: str | None, dialect: str) -> None:
    assert strip_distinct(sql, dialect) == (sql if stripped is None else stripped)


@pytest.mark.parametrize(
    ("torn", "mended"),
    [
        ("a > = 3", "a >= 3"),
        ("a <  = b", "a <= b"),
        ("a ! =3", "a !=3"),
        ("a = '> ='", "a = '> ='"),
        ("a > b", "a > b"),
        ("a >", "a >"),
    ],
)
def test_mend_operators(torn: str, mended: str) -> None:
    assert mend_operators(torn) == mended


@pytest.mark.parametrize(
    ("sql", "mended"),
    [
        ("SELECT YEAR(CURDATE()) - age", "SELECT 2020 - age"),
        ("year ( curdate ( ) )+Year(CurDate())", "2020+2020"),
        ("YEAR(CURDATE(", "YEAR(CURDATE("),
        ("a = 'YEAR(CURDATE())'", "a = 'YEAR(CURDATE())'"),
        ("YEAR(day)", "YEAR(day)"),
    ],
)
def test_mend_year(sql: str, mended: str) -> None:
    assert mend_year(sql) == mended
