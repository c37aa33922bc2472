"""Exact set match, hardness, statistics, BIRD's scores, votes, exposure: each against what it is defined to be."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.comparison import compare_runs, difference_table, flip_lines
from eval.databases import Databases
from eval.execution import GoldCache
from eval.metrics.exposure import Scores, divergence_by_position, exaccerr
from eval.metrics.soft_f1 import soft_f1, ves_reward
from eval.metrics.vote import vote
from eval.names import read_names
from eval.report import summarize
from eval.spider.exact_match import ExactMatcher, hardness
from eval.statistics import estimate, mcnemar
from eval.verdicts import Verdict, judge
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import TopK
from kidcore.sql.datasets import Example
from tests.eval.worlds import make_examples, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("metrics"))


@pytest.mark.parametrize(
    ("gold", "pred", "matches"),
    [
        ("SELECT name, age FROM singer", "SELECT age, name FROM singer", True),
        ("SELECT name FROM singer WHERE age = 3", "select T1.name from singer as T1 where T1.age=99", True),
        ("SELECT name FROM singer WHERE age = 3", "SELECT name FROM singer WHERE age > 3", False),
        ("SELECT name FROM singer WHERE age = 3 AND id = 1", "SELECT name FROM singer WHERE id = 1 AND age = 3", True),
        ("SELECT name FROM singer WHERE age = 3 AND id = 1", "SELECT name FROM singer WHERE id = 1 OR age = 3", False),
        ("SELECT DISTINCT name FROM singer", "SELECT name FROM singer", True),
        ("SELECT name FROM singer ORDER BY age LIMIT 3", "SELECT name FROM singer ORDER BY age LIMIT 5", True),
        ("SELECT name FROM singer ORDER BY age LIMIT 3", "SELECT name FROM singer ORDER BY age", False),
        ("SELECT name FROM singer ORDER BY age, id", "SELECT name FROM singer ORDER BY age DESC, id", False),
        ("SELECT COUNT(*) FROM singer", "SELECT COUNT(name) FROM singer", False),
        (
            "SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id",
            "SELECT a.name FROM concert AS b JOIN singer AS a ON a.id = b.singer_id",
            True,
        ),
        (
            "SELECT T1.id FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id",
            "SELECT T2.singer_id FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id",
            True,
        ),
        ("SELECT name FROM singer", "SELECT name FROM concert", False),
        ("SELECT name FROM singer", "SELECT name FROM singer LEFT JOIN concert ON 1 = 1", False),
        ("SELECT name FROM singer", "SELECT name FROM singer WHERE (", False),
        ("SELECT name FROM singer", "SELECT name FROM singer 'x", False),
        (
            "SELECT name FROM singer WHERE age > (SELECT AVG(age) FROM singer) EXCEPT SELECT name FROM singer",
            "SELECT name FROM singer WHERE age > (SELECT AVG(age) FROM singer) EXCEPT SELECT name FROM singer",
            True,
        ),
        (
            "SELECT name FROM singer WHERE id IN (SELECT singer_id FROM concert)",
            "SELECT name FROM singer WHERE id NOT IN (SELECT singer_id FROM concert)",
            False,
        ),
        ("SELECT name FROM singer WHERE age > id + net", "SELECT name FROM singer WHERE age > net + id", True),
        ("SELECT name FROM singer WHERE age > id + net", "SELECT name FROM singer WHERE age > id + nothing", False),
        ("SELECT name FROM singer WHERE age > id * 2 AND id = 1", "SELECT name FROM singer WHERE id = 1 AND age > id", True),
        ("SELECT name FROM singer ORDER BY age >= 5", "SELECT name FROM singer ORDER BY age >= 6 ASC", True),
        ("SELECT name FROM singer ORDER BY age >= 5", "SELECT name FROM singer ORDER BY age < 5", False),
        ("SELECT name FROM singer ORDER BY age >= 5", "SELECT name FROM singer ORDER BY age", False),
        ("SELECT CASE WHEN 1 THEN 2 END FROM singer", "SELECT CASE WHEN 1 THEN 2 END FROM singer", None),
    ],
)
def test_exact_set_match(world: Path, gold: str, pred: str, matches: bool | None) -> None:
    assert ExactMatcher(read_names(world))(gold, pred) is matches


@pytest.mark.parametrize(
    ("sql", "level"),
    [
        ("SELECT COUNT(*) FROM singer", "easy"),
        ("SELECT name, age FROM singer WHERE age > 3", "medium"),
        ("SELECT name FROM singer ORDER BY age LIMIT 1", "medium"),
        ("SELECT name FROM singer WHERE id IN (SELECT id FROM concert)", "hard"),
        ("SELECT name FROM singer EXCEPT SELECT name FROM singer", "hard"),
        ("SELECT a, COUNT(*) FROM t JOIN u ON x = y WHERE z LIKE 'a' GROUP BY a ORDER BY COUNT(*) LIMIT 1", "extra"),
        ("not sql", ""),
    ],
)
def test_hardness(sql: str, level: str) -> None:
    assert hardness(sql) == level


def test_the_interval_is_wider_when_rows_share_their_gold() -> None:
    values = [float(number % 2) for number in range(200)]
    alone = estimate(values, [str(number) for number in range(200)])
    together = estimate(values, [f"{number % 2}{number // 20}" for number in range(200)])
    assert alone.value == together.value == 0.5
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    # The half-width for independent rows is 1.96 * sqrt(p (1 - p) / n).
    assert (alone.high - alone.low) / 2 == pytest.approx(1.96 * math.sqrt(0.25 / 200), rel=0.15)
    assert math.isnan(estimate([], []).value)


def test_mcnemar_is_the_binomial_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(9, 1) == mcnemar(1, 9)


def test_soft_f1() -> None:
    gold = [("a", 1), ("b", 2)]
    assert soft_f1(gold, gold) == 1.0
    assert soft_f1([], []) == 1.0
    assert soft_f1(gold, []) == soft_f1([], gold) == soft_f1(gold, [("x", 9)]) == 0.0
    assert soft_f1(gold, [(1, "a"), (2, "b"), (2, "b")]) == 1.0
    # Whole rows too many or too few count once each, however wide they are.
    assert soft_f1(gold, [*gold, ("c", 3)]) == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert soft_f1([*gold, ("c", 3)], gold) == pytest.approx(2 * 2 / (2 * 2 + 1))
    # Row 1: one of two right (half missed, half extra); row 2 is missing altogether: tp 0.5, fp 0.5, fn 0.5 + 1.
    assert soft_f1(gold, [("a", 7)]) == pytest.approx(2 * 0.5 / (2 * 0.5 + 0.5 + 1.5))


def test_ves_reward() -> None:
    assert ves_reward([1.0] * 10, [1.0] * 10) == 1.0
    assert [ves_reward([ratio] * 10, [1.0] * 10) for ratio in (3, 2, 1.5, 0.6, 0.3, 0.1)] == [1.25, 1.25, 1.0, 0.75, 0.5, 0.25]
    assert ves_reward([1.0] * 99 + [1000.0], [1.0] * 100) == 1.0


def test_the_majority_of_results_wins(world: Path) -> None:
    examples = make_examples(4)
    count, same, other = "SELECT COUNT(*) FROM singer", "SELECT COUNT(id) FROM singer", "SELECT 5"
    samples = {
        "q0": [other, count, same],
        "q1": ["SELECT broken", other, "DELETE FROM singer"],
        "q2": ["SELECT broken", "nonsense"],
        "q3": [],
    }
    chosen = vote(examples, samples, lambda _db_id: world, EvalSettings(), SandboxSettings(workers=2))
    assert chosen == {"q0": count, "q1": other, "q2": "SELECT broken"}


def test_votes_are_for_rows_not_for_columns_and_for_what_the_judge_executes(world: Path) -> None:
    """Two singers with their ages, and the same names and ages the other way round."""
    right = "SELECT name, age FROM singer WHERE id IN (1, 2)"
    swapped = "SELECT a.name, b.age FROM singer a JOIN singer b ON a.id + b.id = 3"
    turned = "SELECT age, name FROM singer WHERE id < 3 ORDER BY id DESC"
    samples = {"q0": [swapped, right, turned]}
    examples = [Example("q0", "world", "?", right)]

    def winner(samples: dict[str, list[str]], **changes: object) -> str:
        settings = EvalSettings.model_validate(changes)
        return vote(examples, samples, lambda _db_id: world, settings, SandboxSettings(workers=1))["q0"]

    assert winner(samples) == right
    assert winner({"q0": [swapped, right, "SELECT 1", "SELECT 2 - 1"]}) == "SELECT 1"
    mended = "SELECT name FROM singer WHERE age > = 40"
    assert winner({"q0": ["SELECT name FROM singer", mended, mended]}, mend_operators=True) == mended
    assert winner({"q0": ["SELECT name FROM singer", mended, mended]}) == "SELECT name FROM singer"


def test_compare_runs_pairs_by_id(world: Path) -> None:
    examples = make_examples(40)
    databases = Databases(lambda _db_id: world)

    def run(right: set[int]) -> list[Verdict]:
        predictions = {f"q{number}": examples[number].gold_sql if number in right else "SELECT 'no'" for number in range(40)}
        return judge(examples, predictions, databases, GoldCache(EvalSettings(), SandboxSettings(workers=1)))

    first, second = run(set(range(10))), run(set(range(8, 30)))
    runs = compare_runs(first, second[::-1])
    bag = next(item for item in runs.differences if item.metric == "ex_bag")
    assert (bag.first, bag.second, bag.only_first, bag.only_second) == (10 / 40, 22 / 40, 8, 20)
    assert bag.gain.value == pytest.approx(12 / 40)
    assert bag.gain.low < bag.gain.value < bag.gain.high
    assert bag.p_value == pytest.approx(mcnemar(8, 20))
    assert len(runs.flips) == 28
    assert flip_lines(runs, "A", "B", limit=3)[0].startswith("q0 (world): A correct, B wrong")
    table = difference_table(runs, "A", "B")
    assert table.row_count == len(runs.differences)
    shown = {str(column.header): next(iter(column.cells)) for column in table.columns}
    assert (shown["A"], shown["B"], shown["gain in points"]) == ("25.0%", "55.0%", "+30.0")
    assert (shown["rows"], shown["A better"], shown["B better"]) == ("40 of 40", "8", "20")
    with pytest.raises(KidpipeError, match="one evaluation only"):
        compare_runs(first, second[1:])


def test_a_changed_gold_is_not_compared(world: Path) -> None:
    databases, golds = Databases(lambda _db_id: world), GoldCache(EvalSettings(), SandboxSettings(workers=1))
    first = judge([Example("a", "world", "", "SELECT 1")], {"a": "SELECT 1"}, databases, golds)
    second = judge([Example("a", "world", "", "SELECT 2")], {"a": "SELECT 1"}, databases, golds)
    with pytest.raises(KidpipeError, match="another gold"):
        compare_runs(first, second)


def topk(probabilities: list[list[float]], ids: list[list[int]]) -> Scores:
    logprobs = np.log(np.asarray(probabilities, dtype=np.float32))
    return Scores.of(TopK(np.asarray(ids, dtype=np.int32), logprobs, logprobs[:, 0]))


def test_divergence_over_all_tokens_is_the_plain_one() -> None:
    p, q = [[0.7, 0.2, 0.1]], [[0.5, 0.3, 0.2]]
    teacher, student = topk(p, [[0, 1, 2]]), topk([q[0][::-1]], [[2, 1, 0]])
    plain = sum(a * math.log(a / b) for a, b in zip(p[0], q[0], strict=True))
    assert divergence_by_position(teacher, student)[0] == pytest.approx(plain, rel=1e-4)
    assert divergence_by_position(teacher, teacher)[0] == pytest.approx(0, abs=1e-6)
    partial = divergence_by_position(topk([[0.7, 0.2]], [[0, 1]]), topk([[0.5, 0.3]], [[0, 1]]))[0]
    assert 0 < partial <= plain + 1e-6


def test_exaccerr_is_zero_without_accumulation() -> None:
    flat = [np.full(6, 0.1), np.full(4, 0.1)]
    assert exaccerr(flat, flat, 10) == pytest.approx(0)
    growing = [0.1 * np.arange(1, 7), 0.1 * np.arange(1, 5)]
    # (1 + 2 + ... + 6) / 6 = 3.5 times the error of one step.
    assert exaccerr(growing, flat, 10) == pytest.approx(250)
    assert exaccerr(growing, flat, 1) == pytest.approx(0)


def test_r_ves_rewards_speed_and_nothing_for_wrong_rows(world: Path) -> None:
    slow = "SELECT COUNT(*) FROM (SELECT a.id FROM concert a, concert b, concert c LIMIT 300000)"
    fast = "SELECT 300000"
    examples = [Example(name, "world", "", slow) for name in ("fast", "wrong")]
    examples += [Example("failed", "world", "", "SELECT broken"), Example("slow", "world", "", fast)]
    databases, settings = Databases(lambda _db_id: world), EvalSettings(r_ves=True, ves_repeats=5)
    predictions = {"fast": fast, "wrong": "SELECT 'x'", "failed": fast, "slow": slow}
    verdicts = judge(examples, predictions, databases, GoldCache(settings))
    assert [verdict.ex_set for verdict in verdicts] == [True, False, None, True]
    assert [verdict.ves_reward for verdict in verdicts] == [1.25, 0.0, None, 0.25]
    metric = summarize(verdicts)["metrics"]["r_ves"]
    assert metric["all"]["value"] == pytest.approx((math.sqrt(1.25) + 0 + 0.5) / 3)
    assert metric["all"]["num_rows"] == 3
    assert "a timing" in metric["note"]
    assert "r_ves" not in summarize([replace(verdict, ves_reward=None) for verdict in verdicts])["metrics"]
