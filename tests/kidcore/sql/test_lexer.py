"""Tokens and the questions asked of them: order, DISTINCT, operators torn apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kidcore.sql.lexer import is_ordered, mend_operators, strip_distinct, tokens


@given(st.text())
def test_tokens_put_together_are_the_text(text: str) -> None:
    assert "".join(token.text for token in tokens(text)) == text


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
