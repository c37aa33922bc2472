"""What an answer holds in JSON, tags, lists, block quotes and quotes; the likeliest to be meant first."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.sql.wrappers import enclosed_texts, is_quoted_line, json_texts, last_item, tagged_texts, unquoted_lines

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=50)
@given(sql=TEXT, other=TEXT, before=st.sampled_from(["", "Here it is: ", "\n"]), indent=st.sampled_from([None, 2]))
def test_text_in_json_is_read_as_json_says(sql: str, other: str, before: str, indent: int | None) -> None:
    answer = before + json.dumps({"note": other, "sql": sql}, indent=indent)
    assert json_texts(answer) == ([sql], [other])
    assert json_texts(before + json.dumps([sql], indent=indent) + " and so on") == ([], [sql])


@pytest.mark.parametrize(
    ("answer", "named", "others"),
    [
        ('{"sql": "a", "query": "b"}', ["b", "a"], []),
        ('{"x": {"final_answer": "a"}, "why": "w"}', ["a"], ["w"]),
        ('{"Generated-SQL": "a", "sqlite_query": "b", "sequel": "c"}', ["b", "a"], ["c"]),
        ('{"sql": null}', [""], []),
        ('{"sql": 3}', [], []),
        ('{"sql": ["a", "b"]}', ["b", "a"], []),
        ('{"answer": {"sql": "a"}}', ["a"], []),
        ('{"sql": "a"}\n{"sql": "b"}, {"why": "w"} {"sql', ["b", "a"], ["w"]),
        ("{}", [], []),
        ("no JSON", [], []),
        ("", [], []),
        ('{"sql": "two\nlines"}', ["two\nlines"], []),
    ],
)
def test_keys_that_name_sql_come_first_and_the_last_of_them_before_all(answer: str, named: list[str], others: list[str]) -> None:
    assert json_texts(answer) == (named, others)


@pytest.mark.parametrize(
    ("answer", "sql"),
    [
        ("{'sql': 'SELECT 1'}", "SELECT 1"),
        ('{"sql": "SELECT 1', "SELECT 1"),
        ('{"sql": "SELECT "a" FROM t", "why": "so"}', 'SELECT "a" FROM t'),
        ('{"sql": "SELECT \\"a\\" FROM t", "why": cut', 'SELECT "a" FROM t'),
        ('{"sql": "SELECT 1",}', "SELECT 1"),
        ("{'sql': 'SELECT \\'a\\'\\nFROM t', }", "SELECT 'a'\nFROM t"),
        ('{"query": """SELECT 1"""}', "SELECT 1"),
    ],
)
def test_what_is_nearly_json_is_read_too(answer: str, sql: str) -> None:
    assert json_texts(answer)[0] == [sql]


def test_json_as_deep_as_an_attack_is_no_json() -> None:
    assert json_texts("[" * 100_000) == ([], [])
    deep: object = "SELECT 1"
    for _ in range(12):
        deep = {"sql": deep}
    assert json_texts(json.dumps(deep)) == ([], []), "nobody wraps SQL so deep"


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("<sql>a</sql>", ["a"]),
        ("<SQL>a</sql > <answer id=1>b</answer>", ["b", "a"]),
        ("<sql>a", ["a"]),
        ("[SQL]a[/SQL]", ["a"]),
        ("<![CDATA[a]]>", ["a"]),
        ("<sql>a &lt; b &amp;&amp; c</sql>", ["a < b && c"]),
        ("<sql>a &amp; b</sql>", ["a &amp; b"]),
        ("<answer><sql>a</sql></answer>", ["a", "<sql>a</sql>"]),
        ("<table>a</table>", []),
        ("a < sql > b", []),
        ("", []),
    ],
)
def test_tags_that_hold_answers(answer: str, texts: list[str]) -> None:
    assert list(tagged_texts(answer, [])) == texts


def test_tags_in_hidden_parts_are_none_and_only_the_last_few_are_looked_at() -> None:
    answer = "<sql>a</sql> ```<sql>b</sql>``` <sql>c</sql>"
    hidden = range(answer.index("```"), answer.rindex("```") + 3)
    assert list(tagged_texts(answer, [hidden])) == ["c", "a"]
    many = "".join(f"<sql>{number}</sql>" for number in range(100))
    assert list(tagged_texts(many, [])) == [str(number) for number in range(99, 83, -1)]


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("> a\n> b", "a\nb"),
        (">> a\n>b", "a\nb"),
        ("said:\n > a", "said:\na"),
        ("a > b", ""),
        ("", ""),
    ],
)
def test_marks_of_a_block_quote_go(answer: str, plain: str) -> None:
    assert unquoted_lines(answer) == plain


def test_a_line_knows_whether_it_is_quoted() -> None:
    answer = "a\n> b c\nd > e"
    assert [is_quoted_line(answer, answer.index(letter)) for letter in "abcde"] == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("answer", "last"),
    [
        ("1. SELECT 1\n2. SELECT 2", "SELECT 2"),
        ("1) SELECT 1\n2) SELECT 2\n3) SELECT 3;", "SELECT 3;"),
        ("Query 1: SELECT 1\nQuery 2: SELECT 2", "SELECT 2"),
        ("**Option 1:** SELECT 1\n**Option 2:** SELECT 2", "SELECT 2"),
        ("1. SELECT 1", ""),
        ("1. SELECT 1\n3. SELECT 3", ""),
        ("1. SELECT 1\n2. and that is all", ""),
        ("2. SELECT 1\n1. SELECT 2", ""),
        ("SELECT 1\n2. SELECT 2", ""),
        ("", ""),
    ],
)
def test_of_a_list_of_statements_the_last(answer: str, last: str) -> None:
    assert last_item(answer).strip() == last


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ('"a"', ["a"]),
        ("`a`;", ["a"]),
        ("**a**", ["a"]),
        ("$$a$$", ["a"]),
        ('"""a\nb"""', ["a\nb"]),
        ("`sql a`", ["a"]),
        ("$\\boxed{SELECT 1}$", ["\\boxed{SELECT 1}", "SELECT 1"]),
        ("so \\boxed{a} and \\boxed{b}", ["b"]),
        ("\\text{SELECT 1}", ["SELECT 1"]),
        ("run('SELECT 1')", ["SELECT 1"]),
        ("q = \"SELECT 'a'\"; r = 'select 2'", ["select 2", "SELECT 'a'"]),
        ("q = 'nothing'", []),
        ('"a', []),
        ("", []),
    ],
)
def test_what_is_enclosed_in_quotes_marks_or_a_program(answer: str, texts: list[str]) -> None:
    assert list(enclosed_texts(answer)) == texts
