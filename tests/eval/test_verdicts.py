"""Verdicts on a real small database: kinds, flags, metrics, and that they don't depend on workers or order."""

import dataclasses
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eval.databases import Databases
from eval.evaluate import SUMMARY_FILE, VERDICTS_FILE, judge_predictions
from eval.execution import GoldCache
from eval.metrics.ties import opposite_ties
from eval.report import read_verdicts, summarize, tables, unjudged_lines
from eval.verdicts import Verdict, VerdictKind, judge, judge_one
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.errors import KidpipeError
from kidcore.sql.database import database_of
from kidcore.sql.datasets import Example
from tests.eval.worlds import GOLDS, make_examples, make_world

FRANCE = "SELECT name FROM singer WHERE country = 'France'"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("verdicts"))


def new_cache() -> GoldCache:
    return GoldCache(EvalSettings(), SandboxSettings(workers=2))


def one(world: Path, gold: str, pred: str, **changes: object) -> Verdict:
    return judge_one(gold, pred, world, EvalSettings().model_copy(update=changes), SandboxSettings(timeout_s=1))


@pytest.mark.parametrize(
    ("gold", "pred", "kind", "ex_bag", "ex_set"),
    [
        (FRANCE, FRANCE, "correct", True, True),
        (FRANCE, "select s.name from singer s where s.country = 'France' order by age", "correct", True, True),
        (FRANCE + " ORDER BY name", FRANCE + " ORDER BY name DESC", "wrong", False, True),
        ("SELECT name, age FROM singer", "SELECT age, name FROM singer", "correct", True, False),
        ("SELECT DISTINCT country FROM singer", "SELECT country FROM singer", "wrong", False, True),
        ("SELECT id FROM singer", "SELECT id * 1.0 FROM singer", "correct", True, True),
        (FRANCE, "SELECT name FROM singer WHERE", "error", False, False),
        (FRANCE, "DROP TABLE singer", "refused", False, False),
        (FRANCE, FRANCE + "; SELECT 1", "refused", False, False),
        (FRANCE, FRANCE + ";", "correct", True, True),
        (FRANCE, "", "missing", False, False),
        ("SELECT nothing FROM nowhere", FRANCE, "gold_error", None, None),
        ("SELECT nothing FROM nowhere", "", "gold_error", None, None),
        ("DELETE FROM singer", "DELETE FROM singer", "gold_error", None, None),
    ],
)
def test_kinds_and_metrics(world: Path, gold: str, pred: str, kind: str, ex_bag: bool | None, ex_set: bool | None) -> None:
    verdict = one(world, gold, pred)
    assert (verdict.kind, verdict.ex_bag, verdict.ex_set) == (kind, ex_bag, ex_set)


def test_a_hang_is_a_timeout(world: Path) -> None:
    endless = "WITH RECURSIVE t (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM t) SELECT COUNT(*) FROM t"
    assert one(world, FRANCE, endless).kind is VerdictKind.TIMEOUT


def test_settings_change_what_is_compared(world: Path) -> None:
    distinct, plain = "SELECT DISTINCT country FROM singer", "SELECT country FROM singer"
    assert not one(world, distinct, plain).ex_bag
    assert one(world, distinct, plain, keep_distinct=False).ex_bag
    torn = "SELECT name FROM singer WHERE age > = 30"
    assert one(world, torn.replace("> =", ">="), torn).kind is VerdictKind.ERROR
    assert one(world, torn.replace("> =", ">="), torn, mend_operators=True).kind is VerdictKind.CORRECT
    assert one(world, torn, torn.replace("> =", ">="), mend_operators=True).kind is VerdictKind.CORRECT
    born, mysql = ("SELECT name FROM singer WHERE age < " + year for year in ("2020 - 1980", "YEAR(CURDATE()) - 1980"))
    assert one(world, born, mysql).kind is VerdictKind.ERROR
    assert one(world, born, mysql, mend_operators=True).kind is VerdictKind.CORRECT


def test_flags(world: Path) -> None:
    assert one(world, "SELECT SUM(age) FROM singer WHERE id < 0", FRANCE).vacuous
    assert one(world, "SELECT name FROM singer WHERE id < 0", FRANCE).vacuous
    assert not one(world, FRANCE, FRANCE).vacuous
    assert one(world, "SELECT name FROM singer ORDER BY country LIMIT 1", FRANCE).ties
    assert not one(world, "SELECT name FROM singer ORDER BY id LIMIT 1", FRANCE).ties
    assert not one(world, FRANCE, FRANCE).ties
    assert one(world, "SELECT name FROM singer LIMIT 1", FRANCE).ties
    assert one(world, "SELECT name FROM singer WHERE id = (SELECT id FROM singer ORDER BY country LIMIT 1)", FRANCE).ties
    assert not one(world, "SELECT country FROM singer ORDER BY country LIMIT 1", FRANCE).ties


@pytest.mark.parametrize(
    "gold", ["SELECT name FROM singer WHERE 0", "SELECT name FROM singer ORDER BY country LIMIT 1", "SELECT x FROM nowhere"]
)
def test_what_is_said_of_a_gold_is_the_same_whatever_was_predicted(world: Path, gold: str) -> None:
    verdicts = [one(world, gold, pred) for pred in ("SELECT 1", "SELECT", "DROP TABLE singer", "")]
    assert len({(v.vacuous, v.ties, v.kind == "gold_error", v.ex_bag is None, v.soft_f1) for v in verdicts}) == 1


def test_opposite_ties_are_put_where_the_lists_end() -> None:
    sql = "SELECT a, (SELECT b FROM t ORDER BY c LIMIT 1) FROM (SELECT * FROM u) ORDER BY d DESC , e LIMIT 3;"
    inner = "(SELECT b FROM t ORDER BY c, 1 {0}  LIMIT 1)"
    torn = f"SELECT a, {inner} FROM (SELECT * FROM u) ORDER BY d DESC , e, 1 {{0}}, 2 {{0}}  LIMIT 3;"
    assert opposite_ties(sql, 2) == (torn.format("ASC"), torn.format("DESC"))
    assert opposite_ties("SELECT RANK() OVER (ORDER BY a) FROM t WHERE b = 'ORDER BY'", 1) is None


def test_every_example_gets_its_own_verdict_whatever_the_workers(world: Path) -> None:
    examples = make_examples(400)
    predictions = {
        example.example_id: [example.gold_sql, GOLDS[number % 5], "SELECT", "DELETE FROM singer", "SELECT 1; SELECT 2"][
            number % 5
        ]
        for number, example in enumerate(examples)
        if number % 9
    }
    runs = []
    for workers in (1, 8, 1, 8):
        golds = GoldCache(EvalSettings(), SandboxSettings(workers=workers))
        verdicts = judge(examples, predictions, Databases(lambda _db_id: world), golds)
        runs.append([dataclasses.replace(verdict, seconds=0.0) for verdict in verdicts])
    assert [verdict.example_id for verdict in runs[0]] == [example.example_id for example in examples]
    assert runs[0] == runs[1] == runs[2] == runs[3]
    assert {verdict.kind for verdict in runs[0]} == {"correct", "wrong", "error", "refused", "missing"}
    shuffled = dict(sorted(predictions.items(), reverse=True))
    again = judge(examples[::-1], shuffled, Databases(lambda _db_id: world), new_cache())
    assert [dataclasses.replace(verdict, seconds=0.0) for verdict in again[::-1]] == runs[0]


def test_golds_run_once_for_all_predictions_and_again_when_the_database_changes(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    golds = new_cache()
    databases = Databases(lambda _db_id: world)
    examples = make_examples(len(GOLDS))
    predictions = {example.example_id: example.gold_sql for example in examples}
    judge(examples, predictions, databases, golds)
    kept = golds.get([(database_of(world), GOLDS[0])])[database_of(world), GOLDS[0]]
    judge(examples, predictions, databases, golds)
    assert golds.get([(database_of(world), GOLDS[0])])[database_of(world), GOLDS[0]] is kept
    changed = make_world(tmp_path / "changed")
    content = bytearray(changed.read_bytes())
    content[content.index(b"Singer 9")] = ord("s")
    world.write_bytes(bytes(content))
    judge(examples, predictions, databases, golds)
    assert golds.get([(database_of(world), GOLDS[0])])[database_of(world), GOLDS[0]] is not kept


def test_a_suite_finds_predictions_that_are_right_by_chance(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    suite = tmp_path / "suite"
    (suite / "world").mkdir(parents=True)
    other = make_world(tmp_path / "other")
    content = other.read_bytes().replace(b"Kenya", b"Spain")
    (suite / "world" / "a.sqlite").write_bytes(world.read_bytes())
    (suite / "world" / "b.sqlite").write_bytes(content)
    examples = [Example(name, "world", "", "SELECT COUNT(DISTINCT country) FROM singer") for name in ("right", "lucky", "wrong")]
    chance = "SELECT COUNT(DISTINCT country) FROM singer WHERE country NOT IN ('Spain')"
    predictions = {"right": examples[0].gold_sql, "lucky": chance, "wrong": "SELECT 99"}
    seen: dict[str, list[tuple[int, int]]] = {}
    verdicts = judge(
        examples,
        predictions,
        Databases(lambda _db_id: world, suite),
        GoldCache(EvalSettings(r_ves=True, ves_repeats=1), SandboxSettings(workers=1)),
        parts=lambda part: lambda done, total: seen.setdefault(part, []).append((done, total)),
    )
    assert list(seen) == ["gold", "execute", "suite", "time"]
    # Two predictions are right on the main database, and each is tried on two more.
    assert seen["suite"] == [(1, 4), (2, 4), (2, 4), (3, 4), (4, 4), (4, 4)]
    assert seen["time"] == [(1, 2), (2, 2)]
    assert [(verdict.ex_bag, verdict.ts_bag) for verdict in verdicts] == [(True, True), (True, False), (False, False)]
    with pytest.raises(KidpipeError, match="test suite missing"):
        Databases(lambda _db_id: world, tmp_path / "none").require_suite()


def test_a_suite_that_cannot_run_the_gold_says_nothing_of_the_row(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    suite = tmp_path / "suite"
    (suite / "world").mkdir(parents=True)
    for name in ("a", "b"):
        with closing(sqlite3.connect(suite / "world" / f"{name}.sqlite")) as connection:
            connection.execute("CREATE TABLE concert (id, venue)")
    shutil.copyfile(world, suite / "world" / "c.sqlite")
    with closing(sqlite3.connect(suite / "world" / "c.sqlite")) as connection:
        connection.execute("ALTER TABLE singer DROP COLUMN net")
    golds = {"tested": "SELECT count(*) FROM singer", "untested": "SELECT count(net) FROM singer"}
    examples = [
        Example(f"{name} {how}", "world", "", gold) for name, gold in golds.items() for how in ("right", "wrong", "missing")
    ]
    predictions = {x.example_id: x.gold_sql if "right" in x.example_id else "SELECT 99" for x in examples[:2] + examples[3:5]}
    verdicts = judge(examples, predictions, Databases(lambda _db_id: world, suite), new_cache())
    assert [verdict.ex_bag for verdict in verdicts] == [True, False, False] * 2
    assert [verdict.ts_bag for verdict in verdicts] == [True, False, False, None, None, None]


def test_evaluate_writes_what_it_returns(world: Path, tmp_path: Path) -> None:
    examples = make_examples(24)
    predictions = {example.example_id: example.gold_sql for example in examples[:20]}
    seen: list[tuple[str, int, int]] = []
    result = judge_predictions(
        examples,
        predictions,
        Databases(lambda _db_id: world),
        EvalSettings(soft_f1=True),
        tmp_path / "out",
        reasons={"q20": "prompt too long"},
        parts=lambda part: lambda done, total: seen.append((part, done, total)),
    )
    golds = len({example.gold_sql for example in examples})
    assert seen == [("gold", n, golds) for n in range(1, golds + 1)] + [("execute", n, 20) for n in range(1, 21)]
    assert read_verdicts(tmp_path / "out" / VERDICTS_FILE) == result.verdicts
    assert (tmp_path / "out" / SUMMARY_FILE).is_file()
    assert [verdict.message for verdict in result.verdicts[20:22]] == ["prompt too long", "no prediction"]
    summary = result.summary
    assert summary["kinds"]["correct"] == 20
    assert summary["kinds"]["missing"] == 4
    assert sum(summary["kinds"].values()) == summary["examples"] == 24
    for metric in ("ex_bag", "ex_set", "soft_f1"):
        assert summary["metrics"][metric]["all"]["value"] == pytest.approx(20 / 24)
    assert sum(group["rows"] for group in summary["by_hardness"].values()) == 24
    with pytest.raises(KidpipeError, match="belong to no example"):
        judge_predictions(examples, {"stranger": "SELECT 1"}, Databases(lambda _db_id: world), EvalSettings(), tmp_path / "out")


def test_rates_leave_failed_golds_out(world: Path) -> None:
    examples = [Example("a", "world", "", FRANCE), Example("b", "world", "", "SELECT broken")]
    verdicts = judge(
        examples,
        {"a": FRANCE, "b": FRANCE},
        Databases(lambda _db_id: world),
        new_cache(),
    )
    summary = summarize(verdicts)
    assert (summary["judged"], summary["metrics"]["ex_bag"]["all"]["value"]) == (1, 1.0)
    assert summary["kinds"]["gold_error"] == 1


def test_valid_sql_is_what_executes(world: Path) -> None:
    predictions = {
        "right": FRANCE,
        "wrong": "SELECT 1",
        "broken": "SELECT FROM",
        "refused": "DROP TABLE singer",
        "failed": FRANCE,
    }
    examples = [Example(name, "world", "", "SELECT broken" if name == "failed" else FRANCE) for name in [*predictions, "missing"]]
    summary = summarize(judge(examples, predictions, Databases(lambda _db_id: world), new_cache()))
    assert (summary["judged"], summary["valid_sql"]) == (5, 2 / 5)
    assert {kind: count for kind, count in summary["kinds"].items() if count} == {
        "correct": 1,
        "wrong": 1,
        "error": 1,
        "refused": 1,
        "gold_error": 1,
        "missing": 1,
    }


def test_gold_against_gold_is_perfect(world: Path) -> None:
    examples = make_examples(len(GOLDS))
    predictions = {example.example_id: example.gold_sql for example in examples}
    settings = EvalSettings(soft_f1=True)
    for verdict in judge(examples, predictions, Databases(lambda _db_id: world), GoldCache(settings)):
        assert (verdict.ex_bag, verdict.ex_set, verdict.exact_set_match, verdict.soft_f1) == (True, True, True, 1.0)


def test_the_documented_example_runs(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "judge_one" in example
    monkeypatch.chdir(world.parent)
    exec(compile(example, "docs/evaluation.md", "exec"), {})


def test_rates_say_of_how_many(world: Path, tmp_path: Path) -> None:
    """A missing database, a folder in its place, a pipe and half a character: counted, named, in no rate."""
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    paths = {"world": world, "gone": tmp_path / "gone.sqlite", "folder": folder, "pipe": tmp_path / "pipe"}
    examples = [Example(name, name, "", FRANCE) for name in paths] + [Example("half", "world", "", "x", fault="a lone surrogate")]
    predictions = {example.example_id: FRANCE for example in examples if example.db_id != "gone"}
    databases = Databases(paths.__getitem__)
    result = judge_predictions(examples, predictions, databases, EvalSettings(), tmp_path / "out")
    summary = result.summary
    assert (summary["examples"], summary["judged"], summary["unjudged"]["rows"]) == (5, 1, 4)
    assert summary["unjudged"]["examples"] == ["gone", "folder", "pipe", "half"]
    said = list(summary["unjudged"]["reasons"])
    assert all(part in reason for part, reason in zip(("missing", "folder", "database", "lone surrogate"), said, strict=True))
    assert {key: summary["metrics"]["ex_bag"]["all"][key] for key in ("value", "num_rows", "of")} == {
        "value": 1.0,
        "num_rows": 1,
        "of": 5,
    }
    assert summary["by_database"]["gone"] == {"rows": 0, "of": 1}
    assert "4 of 5 rows could not be judged" in str(tables(summary)[0].caption)
    assert len(unjudged_lines(summary)) == 4
    with pytest.raises(KidpipeError, match="none of 1 rows could be judged"):
        judge_predictions(examples[1:2], {}, databases, EvalSettings(), tmp_path / "none")
    assert (tmp_path / "none" / SUMMARY_FILE).is_file()


def test_odd_text_is_kept_in_verdicts_and_summary(world: Path, tmp_path: Path) -> None:
    odd = ["SELECT '\u202ea\u202c'", "SELECT 'e\u0301 \u00e9'", "SELECT 'a\ud800b'", "SELECT 'a\x00b'", "SELECT '\u2028\u0085'"]
    examples = [Example(f"q{n}", "world", "q\u202e", FRANCE) for n in range(len(odd))]
    predictions = {example.example_id: sql for example, sql in zip(examples, odd, strict=True)}
    result = judge_predictions(examples, predictions, Databases(lambda _db_id: world), EvalSettings(), tmp_path)
    read = read_verdicts(tmp_path / VERDICTS_FILE)
    assert [verdict.prediction for verdict in read] == [sql.replace("\ud800", "\\ud800") for sql in odd]
    assert [verdict.answer for verdict in read] == [verdict.prediction for verdict in read]
    assert all(verdict.kind in ("wrong", "error", "refused") for verdict in read)
    assert result.summary["judged"] == len(odd)
