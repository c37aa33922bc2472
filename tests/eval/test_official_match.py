"""Exact set match as the official evaluator reads SQL: each of its known misreadings, and ours beside it."""

import json
from pathlib import Path

import pytest

from eval.databases import Databases
from eval.execution import GoldCache
from eval.names import Names, read_names, read_tables_json
from eval.report import summarize, tables
from eval.spider.exact_match import ExactMatcher
from eval.spider.official import OfficialMatcher
from eval.spider.official_reader import official_tokens
from eval.verdicts import judge
from kidcore.config.config import EvalSettings, SandboxSettings
from tests.eval.worlds import make_examples, make_world, real_data

NAMES = Names({"t": ["id", "a", "b"], "u": ["id", "a", "c"]}, {})
JOIN = "SELECT t1.a FROM t AS t1 JOIN u AS t2 ON t1.id = t2.id"


@pytest.mark.parametrize(
    ("gold", "pred", "official", "ours"),
    [
        ("SELECT a FROM t WHERE b > 1", "select a from t where b > 5", True, True),
        ("SELECT a FROM t", "SELECT DISTINCT a FROM t", True, True),
        ("SELECT a FROM t", "SELECT b FROM t", False, False),
        # An alias in the select list, a table alias without AS, backticks, no spaces: its parser gives up.
        ("SELECT a FROM t", "SELECT a AS x FROM t", False, True),
        ("SELECT a FROM t", "SELECT x.a FROM t x", False, True),
        ("SELECT a FROM t", "SELECT `a` FROM `t`", False, True),
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b=1", False, True),
        # OR in ON after a column vanishes, and so does LEFT.
        (JOIN, JOIN + " OR t1.a = t2.a", True, False),
        (JOIN + " JOIN u AS t3 ON t1.a = t3.a", JOIN + " LEFT JOIN u AS t3 ON t1.a = t3.a", True, False),
        # An alias used again in a set operation means the last table it was given to: u, which has no b.
        (
            "SELECT b FROM t UNION SELECT c FROM u",
            "SELECT t1.b FROM t AS t1 UNION SELECT t1.c FROM u AS t1",
            False,
            True,
        ),
        # A table that is not in FROM is known all the same.
        ("SELECT t.a FROM t WHERE u.c = 1", "SELECT t.a FROM t WHERE u.c = 1", True, None),
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE u.c = 1", False, False),
        # Both quotes are one to it: an apostrophe in double quotes is an odd one.
        ("SELECT a FROM t WHERE b = 'x'", 'SELECT a FROM t WHERE b = "it\'s"', False, True),
        ("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = 'say \"x\" so'", False, True),
        # What follows is ignored, and one direction holds for all of ORDER BY.
        ("SELECT a FROM t", "SELECT a FROM t ; DROP TABLE t", True, False),
        ("SELECT a FROM t", "SELECT a FROM t WHERE", True, False),
        ("SELECT a FROM t ORDER BY a DESC, b DESC", "SELECT a FROM t ORDER BY a ASC, b DESC", True, False),
    ],
)
def test_kinds_of_misreading(gold: str, pred: str, official: bool, ours: bool | None) -> None:
    assert OfficialMatcher(NAMES)(gold, pred) is official
    assert ExactMatcher(NAMES)(gold, pred) is ours


def test_keys_link_columns_of_the_outer_query_only() -> None:
    names = Names(NAMES.columns, {"t.id": "t.id", "u.id": "t.id"})
    matcher = OfficialMatcher(names)
    assert matcher(JOIN.replace("t1.a", "t1.id"), JOIN.replace("t1.a", "t2.id"))
    assert not matcher("SELECT a FROM t WHERE id IN ( SELECT u.id FROM u )", "SELECT a FROM t WHERE id IN ( SELECT t.id FROM u )")


@pytest.mark.parametrize(
    "sql", ["", "SELECT", "SELECT a", "(((((", "SELECT a FROM t WHERE b", "'", "SELECT a FROM t LIMIT", "(" * 5000]
)
def test_whatever_text_it_is_given_it_gives_up_quietly(sql: str) -> None:
    assert OfficialMatcher(NAMES)("SELECT a FROM t", sql) is False
    assert OfficialMatcher(NAMES)(sql, "SELECT a FROM t") is None


def test_its_tokens_end_at_spaces() -> None:
    assert official_tokens("SELECT count(*) FROM t WHERE a.id=b.id AND x ! = 'A, b'") == [
        *("select", "count", "(", "*", ")", "from", "t", "where", "a.id=b.id", "and", "x", "!=", '"A, b"')
    ]


def test_it_is_a_setting_and_says_so(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    examples = make_examples(2)
    predictions = {example.example_id: example.gold_sql.replace("name", "name AS n") for example in examples}
    found = {}
    for value in (True, False, "official"):
        settings = EvalSettings(check_ties=False, exact_match=value)
        verdicts = judge(examples, predictions, Databases(lambda _db_id: world), GoldCache(settings, SandboxSettings(workers=1)))
        found[value] = verdicts[0].exact_set_match
        summary = summarize(verdicts) | {"settings": settings.model_dump()}
        assert ("misreadings" in str(tables(summary)[0].caption)) is (value == "official")
    assert found == {True: True, False: None, "official": False}


def test_every_stored_verdict_of_the_official_evaluator() -> None:
    data = real_data()
    links = read_tables_json(data / "spider" / "tables.json")
    golds = [row["query"] for row in json.loads((data / "spider" / "dev.json").read_text(encoding="utf-8"))]
    matchers: dict[str, OfficialMatcher] = {}
    with (data / "verdicts" / "spider_dev.jsonl").open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            db_id = row["db_id"]
            if db_id not in matchers:
                path = data / "spider" / "database" / db_id / f"{db_id}.sqlite"
                matchers[db_id] = OfficialMatcher(read_names(path, links[db_id]))
            assert matchers[db_id](golds[row["index"]], row["pred"]) is bool(row["esm"]), row
            assert matchers[db_id].reads(row["pred"]) is bool(row["esm_pred_parsed"]), row
