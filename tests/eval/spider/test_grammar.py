"""Spider's grammar: what a text's clauses are, what lies outside, and that no text does anything but parse or be refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.spider.clauses import ColumnName, ColumnUnit, Literal, ParsedQuery, ValueUnit
from eval.spider.exact_match import hardness
from eval.spider.grammar import ParseError, parse


def unit(name: str, aggregate: str = "", table: str = "", distinct: bool = False) -> ColumnUnit:
    return ColumnUnit(aggregate, ColumnName(table, name), distinct)


def test_the_clauses_of_a_whole_query() -> None:
    query = parse(
        "SELECT DISTINCT T1.Name, count(DISTINCT b), max(a) - min(a) FROM t AS T1 JOIN u ON T1.id == u.id, w x "
        "WHERE a <> -3 AND b NOT BETWEEN 1 AND 2 OR c LIKE '%x' GROUP BY a, T1.b HAVING avg(a) >= 1 "
        "ORDER BY count(*) DESC, a LIMIT 3 UNION SELECT * FROM v;"
    )
    assert query.distinct
    assert [(item.aggregate, item.unit.operator) for item in query.select] == [("", ""), ("count", ""), ("", "-")]
    assert query.select[0].unit.left == unit("name", table="t1")
    assert query.select[1].unit.left == unit("b", distinct=True)
    assert query.select[2].unit.right == unit("a", "min")
    assert [(source.table, source.alias) for source in query.sources] == [("t", "t1"), ("u", ""), ("w", "x")]
    assert [condition.operator for condition in query.join] == ["="]
    assert [(c.negated, c.operator, c.value, c.second) for c in query.where] == [
        (False, "!=", Literal("-3"), None),
        (True, "between", Literal("1"), Literal("2")),
        (False, "like", Literal("'%x'"), None),
    ]
    assert query.where_connectors == ["and", "or"]
    assert query.group == [unit("a"), unit("b", table="t1")]
    assert [condition.left.left for condition in query.having] == [unit("a", "avg")]
    assert [(value.left, direction) for value, direction in query.order] == [(unit("*", "count"), "desc"), (unit("a"), "asc")]
    assert (query.limit, query.set_operation) == (True, "union")
    assert isinstance(query.other, ParsedQuery)


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("a = 'x'", Literal("'x'")),
        ('a = "x"', Literal('"x"')),
        ("a = b", unit("b")),
        ("a = max(b)", unit("b", "max")),
        ("a = b + c", ValueUnit("+", unit("b"), unit("c"))),
        ("a = b * 2", Literal("2")),
        ("a IS NULL", Literal("null")),
        ("a IS NOT NULL", Literal("not null")),
        ("a IN (1, 2, 3)", Literal("1")),
        ("a = (5)", Literal("5")),
    ],
)
def test_the_value_of_a_condition(condition: str, value: object) -> None:
    (found,) = parse(f"SELECT a FROM t WHERE {condition}").where
    assert found.value == value


def test_a_set_operation_belongs_to_the_level_it_stands_on() -> None:
    inner = parse("SELECT a FROM t WHERE a IN (SELECT a FROM u EXCEPT SELECT b FROM u)")
    assert inner.other is None
    assert isinstance(inner.where[0].value, ParsedQuery)
    assert inner.where[0].value.set_operation == "except"
    outer = parse("SELECT a FROM t WHERE a IN (SELECT a FROM u) EXCEPT SELECT b FROM u")
    assert outer.set_operation == "except"
    for text in ("(SELECT a FROM t) UNION SELECT b FROM t", "(SELECT a FROM t UNION SELECT b FROM t)"):
        assert parse(text).set_operation == "union"


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";",
        "SELECT",
        "SELECT FROM t",
        "SELECT a",
        "SELECT a FROM",
        "SELECT a, FROM t",
        "SELECT a FROM t WHERE",
        "SELECT a FROM t WHERE a",
        "SELECT a FROM t WHERE a = ",
        "SELECT a FROM t WHERE a BETWEEN 1 OR 2",
        "SELECT a FROM t WHERE (a = 1 OR b = 2)",
        "SELECT a FROM t WHERE EXISTS (SELECT 1)",
        "SELECT a FROM t GROUP a",
        "SELECT a FROM t ORDER BY",
        "SELECT a FROM t LIMIT",
        "SELECT a FROM t LIMIT many",
        "SELECT a FROM t LEFT JOIN u ON a = b",
        "SELECT a FROM t NATURAL JOIN u",
        "SELECT substr(a, 1) FROM t",
        "SELECT CASE WHEN a THEN 1 END FROM t",
        "SELECT (a FROM t",
        "SELECT a FROM (SELECT b FROM u",
        "SELECT a FROM t WHERE b = 'x",
        'SELECT a FROM t WHERE b = "x',
        "SELECT a FROM t WHERE b = [x",
        "SELECT a FROM t x y",
        "SELECT a FROM t; SELECT b FROM t",
        "SELECT a FROM t UNION",
        "(SELECT a FROM t UNION SELECT b FROM t) UNION SELECT c FROM t",
        "(" * 3000 + "SELECT a FROM t",
        "SELECT a FROM (" * 60 + "SELECT a FROM t" + ")" * 60,
        "INSERT INTO t VALUES (1)",
    ],
)
def test_what_lies_outside_is_refused(sql: str) -> None:
    with pytest.raises(ParseError):
        parse(sql)


@pytest.mark.parametrize(
    "sql", ["SELECT a FROM t x y", "SELECT a FROM t; SELECT b FROM t", "SELECT a FROM t WHERE a = 1 nonsense"]
)
def test_a_text_that_begins_with_a_query_will_do_for_its_class(sql: str) -> None:
    assert parse(sql, complete=False).select
    assert hardness(sql) == "easy"


_WORDS = (
    "select from where group by having order limit union and or not in like between is null ( ) , . * = > + - 'x'",
    '"y" 1 t a as on join count max distinct desc ; [z] `q` -- /*',
)


@settings(max_examples=80, deadline=None)
@given(words=st.lists(st.sampled_from(" ".join(_WORDS).split()), max_size=25).map(" ".join) | st.text(max_size=30))
def test_any_text_is_read_or_refused(words: str) -> None:
    for text in (words, f"select a from t where {words}"):
        try:
            query = parse(text)
        except ParseError:
            continue
        assert query.select
        assert hardness(text) in ("easy", "medium", "hard", "extra")


@pytest.mark.parametrize(
    ("sql", "level"),
    [
        ("SELECT a FROM t", "easy"),
        ("SELECT a FROM t WHERE a = 1", "easy"),
        ("SELECT max(a), min(b) FROM t", "medium"),
        ("SELECT a FROM t JOIN u ON a = b WHERE c = 1", "medium"),
        ("SELECT a FROM t WHERE a = 1 OR b = 2", "medium"),
        ("SELECT a, b FROM t WHERE a = 1 AND b = 2 GROUP BY a, b", "hard"),
        ("SELECT a FROM t WHERE b LIKE 'x' GROUP BY a", "hard"),
        ("SELECT a FROM t JOIN u ON a = b JOIN v ON c = d WHERE e LIKE 'x'", "extra"),
        ("SELECT a, b FROM t WHERE a IN (SELECT b FROM u)", "extra"),
        ("SELECT a FROM t UNION SELECT b FROM t", "hard"),
        ("SELECT a FROM t WHERE a IN (SELECT b FROM u) UNION SELECT b FROM t", "extra"),
        # Its evaluator counts a negated condition as an aggregate, and HAVING's AND too.
        ("SELECT max(a), b FROM t WHERE a NOT LIKE 'x' AND b = 1", "hard"),
        ("SELECT a FROM t GROUP BY a HAVING count(*) > 1 AND avg(b) > 2 AND min(b) > 1", "medium"),
    ],
)
def test_hardness_is_counted_as_published(sql: str, level: str) -> None:
    assert hardness(sql) == level
