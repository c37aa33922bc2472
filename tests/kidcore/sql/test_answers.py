"""From what a model says to the SQL that is judged: fences, thinking, labels, prose and control tokens; nothing invented."""

import html
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kidcore.sql.answers import parts_answer, read_answer

F = "```"
LONG = """SELECT a, -- the first
       'x; y' AS b

FROM t -- WHERE ends; not

WHERE a IN (SELECT 1 )"""


@pytest.mark.parametrize(
    ("answer", "sql"),
    [
        (f"<think>\nMaybe\n{F}sql\nSELECT 0\n{F}\n</think>\n{F}sql\nSELECT 1\n{F}", "SELECT 1"),
        (f"<think>{F}sql\nSELECT 0\n{F}</think>SELECT 1", "SELECT 1"),
        ("<think>\n\n</think>\n\nSELECT 1", "SELECT 1"),
        (f"The template opened it. {F}sql\nSELECT 0\n{F}</think>\n\nSELECT 1", "SELECT 1"),
        ("SELECT 0 may do; no.</think>SELECT 1", "SELECT 1"),
        (f"<think>It's not {F}sql\nSELECT 0\n{F} and so on", ""),
        ("<thinking>SELECT 0</thinking>SELECT 1", "SELECT 1"),
        ("<reasoning>\nSELECT 0\n</reasoning>\nSELECT 1", "SELECT 1"),
        ("[THINK]SELECT 0[/THINK]SELECT 1", "SELECT 1"),
        ("◁think▷SELECT 0◁/think▷SELECT 1", "SELECT 1"),
        ("<|begin_of_thought|>SELECT 0<|end_of_thought|>SELECT 1", "SELECT 1"),
        ("<|channel>thought\nSELECT 0<channel|>SELECT 1<turn|>", "SELECT 1"),
        ("<|channel>thought\n<channel|>SELECT 1", "SELECT 1"),
        ("<|channel>thought\nSELECT 0", ""),
        ("<unused94>thought\nSELECT 0<unused95>SELECT 1", "SELECT 1"),
        ("<mm:think>SELECT 0</mm:think>SELECT 1", "SELECT 1"),
        ("<chain_of_thought>SELECT 0</chain_of_thought>SELECT 1", "SELECT 1"),
        ("<plan>SELECT 0</plan>\nSELECT 1", "SELECT 1"),
        (
            "<|channel|>analysis<|message|>SELECT 0<|end|><|start|>assistant<|channel|>final<|message|>SELECT 1<|return|>",
            "SELECT 1",
        ),
        ("<|channel|>analysis<|message|>SELECT 0", ""),
        ("SELECT '<think>' AS a", "SELECT '<think>' AS a"),
        (f"{F}sql\nSELECT a FROM t WHERE b = '</think>'\n{F}", "SELECT a FROM t WHERE b = '</think>'"),
    ],
)
def test_thinking_is_no_answer(answer: str, sql: str) -> None:
    assert read_answer(answer) == sql


@pytest.mark.parametrize("token", ["<think>", "</think>", "<|channel|>", "<|channel>", "<channel|>", "<|end_of_thought|>"])
def test_text_goes_on_after_tokens_of_thinking_and_ends_with_those_of_a_turn(token: str) -> None:
    assert parts_answer(token)
    assert not any(map(parts_answer, ("<|im_end|>", "<turn|>", "<|eot_id|>", "</s>")))


@pytest.mark.parametrize(
    ("answer", "sql"),
    [
        (f"{F}sql SELECT 1{F}", "SELECT 1"),
        (f"{F}SELECT 1{F}", "SELECT 1"),
        (f"The query is {F}sql SELECT 1 {F}.", "SELECT 1"),
        (f"{F}SELECT 1\nFROM t\n{F}", "SELECT 1\nFROM t"),
        ("~~~sql\nSELECT 1\n~~~", "SELECT 1"),
        ("Here:\n~~~\nSELECT 1\n~~~\nDone.", "SELECT 1"),
        ("`````sql\nSELECT '```'\n`````", "SELECT '```'"),
        (f"{F}sql\nSELECT '{F}' AS a\n{F}", f"SELECT '{F}' AS a"),
        (f"  {F}sqlite3\r\n  SELECT 1\r\n  {F}\r\n", "SELECT 1"),
        (f"{F}sql\nSELECT 1", "SELECT 1"),
        (f"SELECT 1\n{F}", "SELECT 1"),
        (f"SELECT 1;\n{F}\nThis counts the rows.", "SELECT 1;"),
        (f"sql\nSELECT 1\n{F}", "SELECT 1"),
        (f"{F}sql\nSELECT 0\n{F}\nBetter:\n{F}sql\nSELECT 1\n{F}\n", "SELECT 1"),
        (f"{F}sql\nSELECT 0\n\nBetter:\n{F}sql\nSELECT 1\n{F}\n", "SELECT 1"),
        (f"{F}sql\nSELECT 1\n{F}\nwhich gives\n{F}\n| 1 |\n{F}", "SELECT 1"),
        (f"{F}sql\nSELECT 1\n{F}\n{F}python\nwith open(f) as g: pass\n{F}", "SELECT 1"),
        (f"{F}sql\nSELECT 0\n{F}\n{F}sql\nSELEC 1\n{F}", "SELEC 1"),
        (f"{F}{{.sql}}\nSELECT 1\n{F}", "SELECT 1"),
        (f"{F}sql title='x'\nSELECT 1\n{F}", "SELECT 1"),
        (f"{F}sql\nSELECT 1 -- it's one\n{F}\nIt's done.", "SELECT 1 -- it's one"),
        (f"{F}sql SELECT 1 -- one{F}", "SELECT 1 -- one"),
        ("The query is `SELECT 1`.", "SELECT 1"),
        (f"{F}sql\nSELECT `a` FROM `t`\n{F}", "SELECT `a` FROM `t`"),
        ("<answer>SELECT 1</answer>", "SELECT 1"),
        (f"{F}sql\n{F}", ""),
        (f"{F}sql\nSELECT 1\n{F}\n{F}sql\n-- gives 3\n{F}", "SELECT 1"),
        (f"{F}sql\n\n", ""),
    ],
)
def test_code_blocks(answer: str, sql: str) -> None:
    assert read_answer(answer) == sql


@pytest.mark.parametrize(
    ("answer", "sql"),
    [
        ("SELECT 1;\n\nThis counts the rows.", "SELECT 1;"),
        ("SELECT 1; This counts.", "SELECT 1;"),
        ("SELECT 1；", "SELECT 1"),
        ("答案：SELECT 1", "SELECT 1"),
        ("SELECT 1 [/SQL]", "SELECT 1"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nSELECT 1", "SELECT 1"),
        ("SELECT '一；'；", "SELECT '一；'"),
        ("SELECT 1;\n\nWith this query, we count.", "SELECT 1;"),
        ("SELECT 1;\n-- so\nThat is it.", "SELECT 1;"),
        (f"{F}sql\nSELECT 1;\n\nThis counts.\n{F}", "SELECT 1;"),
        ("SELECT 'a;\n\nb';\n\nThat is all.", "SELECT 'a;\n\nb';"),
        ("SELECT 1 /* a; b */; It's done", "SELECT 1 /* a; b */;"),
        ("SELECT a FROM t\n\nThis query counts the rows.", "SELECT a FROM t"),
        ("SELECT a FROM t\n\nIn this query we count", "SELECT a FROM t"),
        ("SELECT a FROM t\nExplanation: it counts", "SELECT a FROM t"),
        ("Question: how many?\nSQLQuery: SELECT 1\nSQLResult: 3\nAnswer: 3", "SELECT 1"),
        ("SQL: SELECT 1", "SELECT 1"),
        ("It takes one row. The SQL is SELECT 1", "SELECT 1"),
        ("**Answer:** SELECT 1", "SELECT 1"),
        ("SQLQuery:\nSELECT 1", "SELECT 1"),
        ("Here's the query:\n\nWITH a AS (SELECT 1) SELECT * FROM a", "WITH a AS (SELECT 1) SELECT * FROM a"),
        ("First we count the rows.\n\nSELECT 1", "SELECT 1"),
        ("Here is the query\n\nSELECT 1", "SELECT 1"),
        ("SELECT 1<|im_end|>", "SELECT 1"),
        ("SELECT 1</s>", "SELECT 1"),
        ("<|assistant|>SELECT 1<|end|>", "SELECT 1"),
        ("<s> SELECT 1 </s>", "SELECT 1"),
        ("### SQL:\nSELECT 1\n### Question: the next", "SELECT 1"),
        ("SELECT 1 <eos>", "SELECT 1"),
        ("<|im_start|>assistant\nSELECT 1<|im_end|>\n<|im_start|>user\nmore", "SELECT 1"),
        (f"{F}sql\nSELECT 1\n{F}<|im_end|>", "SELECT 1"),
        ("SELECT 1<｜end▁of▁sentence｜>", "SELECT 1"),
        ("SELECT '<|im_end|>' FROM t WHERE a<eos", "SELECT '<|im_end|>' FROM t WHERE a<eos"),
        ("", ""),
        (" \n\t ", ""),
        ("<|im_end|>", ""),
    ],
)
def test_what_stands_around_the_statement(answer: str, sql: str) -> None:
    assert read_answer(answer) == sql


@pytest.mark.parametrize(
    "sql",
    [
        LONG,
        "SELECT 1; DROP TABLE t",
        "SELECT 1;\n\nWITH a AS (SELECT 1) SELECT * FROM a",
        "SELECT 1; -- that is all",
        "SELECT a\n\n-- a remark: nothing\n\nFROM t\n\nWHERE b = 1\n\nORDER BY a",
        "SELECT a\n\nFROM t\n\nFoo\n\nJOIN u ON 1",
        "SELECT answer:1, 2",
        "SELECT a,\n\nResult: 1",
        "I can't answer that.",
        "SELEC a FROM t; SELECT 1",
        "SELECT a FROM t WHERE b = 'it''s",
        "WITH RECURSIVE a(b) AS (VALUES(1) UNION SELECT b FROM a)\n\nSELECT * FROM a",
        "FROM t SELECT a",
        "SELECT [a\n\nThis is a name] FROM t",
        "SELECT 2\n\n* Three FROM t",
        "SELECT a < b, c > d, x::TEXT FROM t",
        "DROP TABLE t",
    ],
)
def test_sql_that_stands_alone_comes_back(sql: str) -> None:
    """What isn't SQL either: nothing is cut out of it that would run where the whole does not."""
    assert read_answer(sql) == sql
    assert read_answer(f"\n{sql}\n") == sql


@pytest.mark.parametrize(
    "answer",
    [
        '{"sql": "SELECT 1"}',
        '{"reasoning": "SELECT 0 is wrong", "SQL": "SELECT 1", "note": "SELECT 2"}',
        '{"query": "how many?", "final_sql": "SELECT 1"}',
        '[{"sql": "SELECT 0"}, {"sql": "SELECT 1"}]',
        '{"answer": {"sql_query": "SELECT 1"}}',
        '{"result": "```sql\\nSELECT 1\\n```"}',
        f'Here:\n{F}json\n{{\n  "sql": "SELECT 1"\n}}\n{F}\nDone.',
        f'{F}sql\nSELECT 0\n{F}\n{F}json\n{{"sql": "SELECT 1"}}\n{F}',
        f'{F}sql\nSELECT 1\n{F}\n{F}json\n{{"rows": [3]}}\n{F}',
        'Sure! {"sql": "SELECT 1"} is it.',
        "{'sql': 'SELECT 1'}",
        '{"sql": "SELECT 1',
        '<think>{"sql": "SELECT 0"}</think>\r\n{"sql":\r\n"SELECT 1"}\r\n',
        '<tool_call>\n{"name": "run", "arguments": {"sql": "SELECT 1"}}\n</tool_call>',
        'I call:<｜tool▁call▁begin｜>function<｜tool▁sep｜>run\n```json\n{"query": "SELECT 1"}\n```',
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>run<｜tool▁sep｜>{"query": "SELECT 1"}<｜tool▁call▁end｜>',
        '<｜DSML｜invoke name="run">\n<｜DSML｜parameter name="query" string="true">SELECT 1</｜DSML｜parameter>',
        '<|tool_call_begin|>functions.run:0<|tool_call_argument_begin|>{"sql": "SELECT 1"}<|tool_call_end|>',
        "<function=run><parameter=sql>SELECT 1</parameter></function>",
    ],
)
def test_json_as_models_give_it_where_they_are_asked_to(answer: str) -> None:
    assert read_answer(answer) == "SELECT 1"


@pytest.mark.parametrize(
    ("answer", "sql"),
    [
        (r'{"sql": "SELECT a FROM t\nWHERE b = \"x\" AND c = \u0027é\u0027"}', "SELECT a FROM t\nWHERE b = \"x\" AND c = 'é'"),
        ('{"sql": "SELECT a\nFROM t"}', "SELECT a\nFROM t"),
        ('{"sql": "SELECT a FROM t WHERE b IN ("x", "y")"}', 'SELECT a FROM t WHERE b IN ("x", "y")'),
        ('{"sql": "SELEC 1"}', "SELEC 1"),
        ('{"sql": null}', ""),
        ('{"sql": ""}', ""),
        ('{"rows": [1, 2]}', '{"rows": [1, 2]}'),
        ('SELECT \'{"sql": "SELECT 0"}\'', 'SELECT \'{"sql": "SELECT 0"}\''),
        ("[" * 5000, "[" * 5000),
    ],
)
def test_what_stands_in_json_is_read_as_json_says(answer: str, sql: str) -> None:
    assert read_answer(answer) == sql


@pytest.mark.parametrize(
    ("answer", "sql"),
    [
        ("<sql>SELECT 1</sql>", "SELECT 1"),
        ("Why: x\n<answer>\n<sql>SELECT 1</sql>\n</answer>", "SELECT 1"),
        (f"<answer>{F}sql\nSELECT 1\n{F}</answer>", "SELECT 1"),
        (f"{F}sql\nSELECT 0\n{F}\n<final_answer>SELECT 1</final_answer>", "SELECT 1"),
        ("I write it in <answer> tags. <answer>SELECT 1</answer>", "SELECT 1"),
        ("I write it in <sql></sql> tags. <sql>SELECT 0</sql>, no, <sql>SELECT 1</sql> is right.", "SELECT 1"),
        (f"I write it in <sql> tags.\n{F}sql\nSELECT 1\n{F}", "SELECT 1"),
        (f"{F}sql\nSELECT '<sql>SELECT 0</sql>'\n{F}", "SELECT '<sql>SELECT 0</sql>'"),
        (f"{F}xml\n<sql>SELECT 1</sql>\n{F}", "SELECT 1"),
        ("<sql_query dialect='sqlite'>\nSELECT 1", "SELECT 1"),
        ("SELECT 1</sql>\nThis counts", "SELECT 1"),
        ("<sql><![CDATA[SELECT 1 < 2]]></sql>", "SELECT 1 < 2"),
        ("<sql>SELECT a &lt; 2 FROM t</sql>", "SELECT a < 2 FROM t"),
        ("SELECT a[b[1]]>2 FROM t", "SELECT a[b[1]]>2 FROM t"),
        ("[SQL]SELECT 1[/SQL]", "SELECT 1"),
        (f"> {F}sql\n> SELECT a\n> FROM t WHERE a > 2\n> {F}", "SELECT a\nFROM t WHERE a > 2"),
        ("The query:\n> SELECT 1\n> FROM t", "SELECT 1\nFROM t"),
        (f"{F}sql\nSELECT a FROM t WHERE a\n> (SELECT 1)\n{F}", "SELECT a FROM t WHERE a\n> (SELECT 1)"),
        ('<|channel|>final <|constrain|>json<|message|>{"sql": "SELECT 1"}<|return|>', "SELECT 1"),
        ("analysisWe count, SELECT 0.assistantfinalSELECT 1", "SELECT 1"),
        ("finalSELECT 1", "SELECT 1"),
        ("1. SELECT 0\n2. SELECT 1\n\nThe second is better.", "SELECT 1"),
        ("Option 1:\nSELECT 0;\n\n**Option 2:**\nSELECT 1;", "SELECT 1;"),
        ("1. How many?\nSQL: SELECT 1\n2. And now?\nSQL: SELECT 2", "SELECT 1\n2. And now?\nSQL: SELECT 2"),
        ("- SELECT 1", "SELECT 1"),
        ("1. SELECT 1", "SELECT 1"),
        ("## SQL\n\nSELECT 1", "SELECT 1"),
        ("**SQL**\r\nSELECT 1\r\n", "SELECT 1"),
        ("**SELECT 1;**", "SELECT 1;"),
        ("\"SELECT 'a'\"", "SELECT 'a'"),
        ("``SELECT `a` FROM t``", "SELECT `a` FROM t"),
        (f'{F}python\nquery = """SELECT 1"""\nrun(query)\n{F}', "SELECT 1"),
        (f'{F}sql\nSELECT 1\n{F}\n{F}python\nrun("SELECT 0")\n{F}', "SELECT 1"),
        (r"The answer is $\boxed{\text{SELECT 1}}$.", "SELECT 1"),
        ("sqlite> SELECT 1;", "SELECT 1;"),
        ("assistant\nSELECT 1", "SELECT 1"),
        ("The final SQL query is SELECT 1", "SELECT 1"),
        ("Sure! SELECT 1", "SELECT 1"),
        ("“SELECT 'a”b' FROM t”", "SELECT 'a”b' FROM t"),
        ("\ufeffSELECT 1", "SELECT 1"),
        ("SELECT a FROM t\nThis query counts the rows.", "SELECT a FROM t"),
        ("SELECT a FROM t\n---\nExplanation", "SELECT a FROM t"),
        ("SELECT a FROM t\nConfidence: 0.9", "SELECT a FROM t"),
        ("SELECT a -- b\n-----\nFROM t\n---\nWHERE a", "SELECT a -- b\n-----\nFROM t\n---\nWHERE a"),
    ],
)
def test_what_wraps_the_sql_goes(answer: str, sql: str) -> None:
    assert read_answer(answer) == sql


_NAMES = st.sampled_from(["a", "T1.b", '"odd; name"', "`c d`", "count(*)", "x.y"])
_LITERALS = st.text(st.characters(blacklist_characters="'\x00", blacklist_categories=["Cs"]), max_size=12).map(lambda t: f"'{t}'")
_SPACES = st.sampled_from([" ", "\n", "\n\n", "\t", "\n  ", " -- it's; so\n", " /* ; ``` */ ", "\r\n"])


@st.composite
def statements(draw: st.DrawFn) -> str:
    pieces = [
        "SELECT",
        draw(_NAMES),
        "FROM",
        "t",
        "WHERE",
        draw(_NAMES),
        draw(st.sampled_from(["=", "<", ">="])),
        draw(_LITERALS),
    ]
    if draw(st.booleans()):
        pieces += ["AND", draw(_NAMES), "IN", "(", draw(_LITERALS), ",", draw(_LITERALS), ")"]
    if draw(st.booleans()):
        pieces = ["WITH", "w", "AS", "(", *pieces, ")", "SELECT", "*", "FROM", "w"]
    text = pieces[0]
    for piece in pieces[1:]:
        text += draw(_SPACES) + piece
    return text + draw(st.sampled_from(["", ";"]))


@pytest.mark.parametrize("sql", ["SELECT $$a;b$$", "SELECT E'it\\'s; x'", "SELECT $q$ $$; $q$ FROM t WHERE a IN [';', ']']"])
@pytest.mark.parametrize(
    "around", ["{}", f"It is:\n{F}sql\n{{}}\n{F}\nDone.", "<sql>\n{}\n</sql>", "SQL: {}; That is all.", "1. SELECT 0\n2. {}"]
)
def test_duckdbs_own_quotes_are_looked_into_by_nothing(sql: str, around: str) -> None:
    assert read_answer(around.format(sql), "duckdb").removesuffix(";") == sql


def test_duckdbs_own_quotes_hide_control_tokens() -> None:
    sql = "SELECT $q$<|im_end|>$q$ FROM t"
    assert read_answer(f"{sql}<|im_end|>", "duckdb") == sql


@given(statements())
def test_reading_plain_sql_changes_nothing(sql: str) -> None:
    assert read_answer(sql) == sql


@given(
    statements(),
    st.sampled_from("`~"),
    st.integers(0, 2),
    st.sampled_from(["", "sql", "SQL", "sqlite", "{.sql}", "postgresql", "vbnet"]),
    st.sampled_from(["", "  ", "\t"]),
    st.sampled_from(
        ["", "Here it is:\n\n", "First.\n```sql\nSELECT 0\n```\nBetter:\n", "<think>\n```\nSELECT 0\n```\n</think>\n"]
    ),
    st.sampled_from(["{fence}", "{fence}\n\nIt's what counts; isn't it?", "", "{fence}<|im_end|>"]),
)
def test_any_fence_gives_its_sql_back(sql: str, mark: str, extra: int, tag: str, indent: str, before: str, after: str) -> None:
    longest = max((len(run) for run in sql.replace("\n", " ").split() if set(run) == {mark}), default=0)
    fence = mark * (max(3, 4 if mark in sql and mark * 3 in sql else longest + 1) + extra)
    end = "\n" + indent + after.format(fence=fence) if after else ""
    assert read_answer(f"{before}{indent}{fence}{tag}\n{sql}{end}") == sql


@given(
    statements(), st.sampled_from(["sql", "SQL", "final_query"]), st.sampled_from(["{}", "Here: {}", "```json\n{}\n```", "[{}]"])
)
def test_any_sql_in_json_comes_back(sql: str, key: str, around: str) -> None:
    assert read_answer(around.format(json.dumps({"reason": "why", key: sql}))) == sql


@given(statements(), st.sampled_from(["<sql>{}</sql>", "Done: <answer>\n{}\n</answer>", "<answer><sql>{}</sql></answer>"]))
def test_any_sql_in_tags_comes_back(sql: str, around: str) -> None:
    assert read_answer(around.format(sql)) == html.unescape(sql)


@given(statements(), st.sampled_from(["SQL: ", "Answer:\n", "SQLQuery: ", "**SQL:** ", "Here's your query:\n\n"]))
def test_any_label_goes(sql: str, label: str) -> None:
    assert read_answer(label + sql) == sql


@given(st.text(st.sampled_from(list("`~'\";-/*<>|[]():\n aSELCTfromthink")), max_size=60))
def test_any_text_is_read_and_what_comes_is_part_of_it(text: str) -> None:
    sql = read_answer(text)
    assert sql in text or not set(sql) - set(text)
    assert len(sql) <= len(text)
