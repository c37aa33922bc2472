"""Where SQL begins and ends in a text, by what SQL itself can be."""

import re

import pytest

from kidcore.sql.statements import begins_statement, next_unquoted, statement_end


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "  \n(select a from t)",
        "-- a note\nSELECT 1",
        "/* a\nnote */ SELECT 1",
        ";SELECT 1",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "with recursive n(i) as (select 1) select * from n",
        'WITH "my view" (a, b) AS (SELECT 1, 2) SELECT a FROM "my view"',
        "WITH x /* so */ AS (SELECT 1) SELECT 1",
        "VALUES (1), (2)",
        "FROM t SELECT a",
        "FROM t",
        "EXPLAIN QUERY PLAN SELECT 1",
        "INSERT INTO t VALUES (1)",
        "REPLACE INTO t VALUES (1)",
        "DELETE FROM t",
        "UPDATE t SET a = 1",
        "DROP TABLE t",
        "CREATE OR REPLACE VIEW v AS SELECT 1",
        "PRAGMA table_info(t)",
        "ATTACH 'x' AS y",
        "BEGIN",
        "COMMIT;",
        "SAVEPOINT a;",
        "SUMMARIZE t",
        "SET threads = 1",
        "COPY t TO 'x.csv'",
        "SELECT*FROM t",
        "SELECT\n1",
    ],
)
def test_it_begins_as_a_statement(text: str) -> None:
    assert begins_statement(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "-- only a note",
        "Selecting the rows",
        "select_all is a column",
        "select: the tables",
        "With this query we find the answer.",
        "With love, as ever",
        "From the schema we see that",
        "Values of the column are",
        "Update the table, set in the hall",
        "Delete the rows",
        "Create a query",
        "Begin with the tables",
        "Set the table",
        "Explain why",
        "Use the following SQL",
        "Copy that",
        "1 SELECT",
        "SELECTED",
    ],
)
def test_english_is_no_statement(text: str) -> None:
    assert not begins_statement(text)


@pytest.mark.parametrize(
    ("statement", "after"),
    [
        ("SELECT 1;", " This counts the rows."),
        ("SELECT ';' FROM t;", "\n```"),
        ("SELECT 1 -- a; b\n;", " and so on"),
        ("SELECT a FROM t", "\n\nThis query finds all of them."),
        ("SELECT a FROM t", "\nExplanation: it is simple"),
        ("SELECT a FROM t", "\nQ: how many?"),
        ("SELECT a FROM t", "\nNote: nothing"),
        ("SELECT a\nFROM t\nWHERE b = 'x'", "\n\n### Why"),
        ("SELECT count(*)", "\n\n1. It counts"),
        ("SELECT a FROM t", "\n---\nThis is why"),
        ("SELECT a FROM t", "\n\nThe result is 5"),
        ("SELECT a FROM t", "\n\nHere's why"),
        ("SELECT a FROM t", "\nIt’s all of them"),
        ("SELECT a FROM t", "\nWe'll see 'x' there"),
        ("SELECT a FROM t", "\n\nDon't forget the index"),
        ("SELECT a FROM t", "\n\n(This query finds all of them.)"),
        ("SELECT a FROM t", "\n\n- `a`: the first column"),
        ("SELECT a FROM t", "\n\n* **a**: the first column"),
        ("SELECT a FROM t", "\n\n- This query finds them"),
        ("SELECT a FROM t", "\n\ndatabase: shop\nsale: price int"),
        ("SELECT a FROM t", "\n\n这个查询返回所有名称。"),
        ("SELECT a FROM t", "\n解释：返回所有名称"),
        ("SELECT a FROM t", "\n（このクエリは、名前を返します。）"),
    ],
)
def test_what_follows_is_left_out(statement: str, after: str) -> None:
    assert statement_end(statement + after) == len(statement)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SELECT 1;",
        "SELECT 1; -- so it ends\n",
        "SELECT 1; /* done */ ;",
        "SELECT 1; DROP TABLE t",
        "SELECT 1; SELECT 2; and prose",
        "SELECT a\nFROM t\nWHERE a = 1\nORDER BY a",
        "SELECT a FROM t\n\nORDER BY a DESC",
        "SELECT a FROM t\n\nWHERE Name = 'x'",
        "SELECT a FROM t UNION\n\nSELECT b FROM u",
        "SELECT (\n\nSelect max(a) From t\n\n)",
        "SELECT 'a\n\nThis is within the text' FROM t",
        "SELECT a FROM t -- note:\nWHERE b = 1",
        'SELECT "a\n\nThis is a name" FROM t',
        "SELECT a,\n\nStadium Name, b FROM t",
        "SELECT max(a\n\nThis one goes deeper) FROM t",
        "SELECT a FROM t\nWHERE b =\nX's s'",
        "SELECT a FROM t\nLimit 5",
        "SELECT a\n\n- b AS c FROM t",
        "SELECT a\n\n* Total cost FROM t",
        "SELECT a FROM t WHERE (b = 1)\n\nAND (c = 2)",
        "SELECT 名称 -- 名字，全部\nFROM 城市 -- 表，一个\nWHERE 名称 = '甲，乙'",
        "SELECT a FROM t AS\n城市 WHERE b = '，'",
        "SELECT a FROM\n城市 -- 表，一个",
        "SELECT a FROM Singer AS T1\nJoin Concert AS T2 ON T1.id = T2.id",
    ],
)
def test_sql_is_kept_to_its_end(text: str) -> None:
    assert statement_end(text) == len(text)


@pytest.mark.parametrize("statement", ["SELECT $$a;b$$;", "SELECT $x$ $$; $x$;", "SELECT E'it\\'s; x';", "SELECT [']', ';'];"])
def test_a_semicolon_within_duckdbs_own_quotes_ends_nothing(statement: str) -> None:
    assert statement_end(f"{statement} This is it.", "duckdb") == len(statement)


@pytest.mark.parametrize(
    ("text", "start", "found"),
    [
        ("a x b", 0, 2),
        ("'x' x", 0, 4),
        ('"x" x', 0, 4),
        ("it's x", 0, 5),
        ("it's x, isn't it", 0, None),
        ("'x'\nx", 0, 4),
        ("'open\nx'", 0, 6),
        ("x x", 1, 2),
        ("no", 0, None),
        ("", 0, None),
    ],
)
def test_the_next_that_is_not_within_quotes_on_its_line(text: str, start: int, found: int | None) -> None:
    match = next_unquoted(re.compile("x"), text, start)
    assert (match.start() if match else None) == found
