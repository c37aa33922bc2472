"""Gold SQL, predicted SQL and a database in, a verdict out; for one pair or for a whole set, by id."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from eval.databases import Databases
from eval.execution import Comparison, Gold, GoldCache, Pair, Parts, ProgressCallback, compare_results, gold_text
from eval.metrics.ves import measure_rewards
from eval.spider.exact_match import hardness
from kidcore.advance import unheard
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.sql.database import Database, database_of
from kidcore.sql.datasets import Example
from kidcore.sql.lexer import mend_operators
from kidcore.sql.sandbox.job import ResultKind


class VerdictKind(StrEnum):
    """What became of a prediction; `correct` and `wrong` are by ex_bag."""

    CORRECT = "correct"
    WRONG = "wrong"
    ERROR = "error"
    """Did not execute, ran out of memory or crashed its process."""
    TIMEOUT = "timeout"
    REFUSED = "refused"
    """Not a single reading statement, or beyond a limit."""
    GOLD_ERROR = "gold_error"
    """The gold could not be executed (its database may be missing): the row says nothing about the model. It is in no rate, and
    every rate says of how many rows it is."""
    MISSING = "missing"
    """No prediction, or an empty one."""


@dataclass(frozen=True)
class Verdict:
    """One example judged. The metrics are None where the gold failed."""

    example_id: str
    db_id: str
    hardness: str
    gold_sql: str
    prediction: str
    kind: VerdictKind
    ex_bag: bool | None
    ex_set: bool | None
    ts_bag: bool | None
    """ex_bag on every database of a test suite; None where there is no suite."""
    exact_set_match: bool | None
    """Spider's; None where its grammar can't read the gold."""
    soft_f1: float | None
    """BIRD's; None where it was not asked for."""
    vacuous: bool
    """The gold returns nothing or a single row of zeros and NULLs."""
    ties: bool
    """The gold's result depends on the order in which SQLite visits rows."""
    message: str
    seconds: float
    ves_reward: float | None = None
    """BIRD's reward by speed, 0 where `ex_set` is not true; None where R-VES was not asked for."""
    question: str = ""
    answer: str = ""
    """What `prediction` was read from, as the model or the file has it."""

    @property
    def r_ves(self) -> float | None:
        """The row's part of R-VES, which is the mean of these."""
        return None if self.ves_reward is None else math.sqrt(self.ves_reward)


def judge(
    examples: Sequence[Example],
    predictions: Mapping[str, str],
    databases: Databases,
    golds: GoldCache,
    reasons: Mapping[str, str] | None = None,
    parts: Parts | None = None,
    said: Mapping[str, str] | None = None,
) -> list[Verdict]:
    """Judge every example by its id, in order; examples without a prediction get a verdict too.

    Args:
        examples: what was asked.
        predictions: predicted SQL by example id.
        databases: where to execute.
        golds: results of golds seen before; filled with those that are new. Its settings are the ones that count.
        reasons: why there is no prediction, by example id.
        parts: called with `gold`, `execute` (predictions), `suite gold`, `suite` and `time` (R-VES), where there are such.
        said: what each prediction was read from, by example id; the prediction itself where it isn't there.
    """
    parts = parts or (lambda _part: unheard)
    faults = _faults(examples, databases)
    judgeable = [example for example in examples if example.example_id not in faults]
    # Whatever was predicted: that a gold fails, or is flagged, is a fact of the data set.
    places = [databases.of(example.db_id) for example in judgeable]
    known = _golds(judgeable, places, golds, golds.settings.check_ties, parts("gold"))
    answered = [example for example in judgeable if predictions.get(example.example_id, "").strip()]
    pairs = [Pair(example.gold_sql, predictions[example.example_id], databases.of(example.db_id)) for example in answered]
    compared = compare_results(pairs, golds, parts("execute"))
    comparisons = dict(zip((example.example_id for example in answered), compared, strict=True))
    survivors = [example for example in answered if comparisons[example.example_id].ex_bag]
    testable = _testable(judgeable, databases, golds, parts)
    passed = _suite(survivors, predictions, databases, golds, parts)
    suite = {example_id: bool(passed.get(example_id)) for example_id in testable}
    verdicts = []
    for example in examples:
        prediction = predictions.get(example.example_id, "")
        verdict = _verdict(example, prediction, known.get(example.example_id), comparisons.get(example.example_id))
        verdict = replace(verdict, answer=(said or {}).get(example.example_id, prediction))
        if example.example_id in faults:
            verdict = replace(verdict, message=faults[example.example_id])
        elif verdict.kind is VerdictKind.MISSING:
            verdict = replace(verdict, message=(reasons or {}).get(example.example_id, "no prediction"))
        verdicts.append(_with_text_metrics(verdict, databases, golds, suite))
    return _with_rewards(verdicts, databases, golds, parts) if golds.settings.r_ves else verdicts


def judge_one(
    gold_sql: str,
    predicted_sql: str,
    database: Database | Path,
    settings: EvalSettings | None = None,
    sandbox: SandboxSettings | None = None,
) -> Verdict:
    """The verdict on one prediction. Starts its own worker processes: use `judge` for many."""
    example = Example("0", database_of(database).db_id, "", gold_sql)
    golds = GoldCache(settings or EvalSettings(), (sandbox or SandboxSettings()).model_copy(update={"workers": 1}))
    return judge([example], {"0": predicted_sql}, Databases(lambda _db_id: database), golds)[0]


def _faults(examples: Sequence[Example], databases: Databases) -> dict[str, str]:
    """Why a row can't be judged whatever was predicted, by example id."""
    found_faults = {db_id: databases.of(db_id).fault for db_id in {example.db_id for example in examples if not example.fault}}
    lacking = {db_id: f"{fault.what}: {fault.where}" for db_id, fault in found_faults.items() if fault}
    found = {example.example_id: example.fault or lacking.get(example.db_id, "") for example in examples}
    return {example_id: fault for example_id, fault in found.items() if fault}


def _golds(
    examples: Sequence[Example], places: Sequence[Database], golds: GoldCache, check_ties: bool, tick: ProgressCallback
) -> dict[str, Gold]:
    """The golds' results by example id, each on its database of `places`; those that are not known are run."""
    queries = [(on, gold_text(x.gold_sql, golds.settings, on.dialect)) for x, on in zip(examples, places, strict=True)]
    golds.fill(queries, check_ties, tick)
    known = golds.get(queries)
    return {example.example_id: known[query] for example, query in zip(examples, queries, strict=True)}


def _suite(
    survivors: Sequence[Example],
    predictions: Mapping[str, str],
    databases: Databases,
    golds: GoldCache,
    parts: Parts,
) -> dict[str, bool]:
    """Whether each prediction, right on its main database, is right on the whole suite; one round a file, losers drop out."""
    passed = {example.example_id: True for example in survivors}
    files = {example.db_id: databases.suite_databases(example.db_id) for example in survivors}
    total = sum(len(files[example.db_id]) for example in survivors)
    tick = parts("suite") if total else unheard
    before = 0
    for number in range(max(map(len, files.values()), default=0)):
        alive = [example for example in survivors if passed[example.example_id] and number < len(files[example.db_id])]
        pairs = [Pair(example.gold_sql, predictions[example.example_id], files[example.db_id][number]) for example in alive]
        inner = partial(_tick_behind, tick, before, total)
        for example, comparison in zip(alive, compare_results(pairs, golds, inner, check_ties=False), strict=True):
            # A database on which the gold fails says nothing.
            passed[example.example_id] = comparison.ex_bag or not comparison.gold.result.is_ok
        # Those that have dropped out are settled there too.
        before += sum(number < len(files[example.db_id]) for example in survivors)
        tick(before, total)
    return passed


def _tick_behind(tick: ProgressCallback, before: int, total: int, done: int, _total: int) -> None:
    tick(before + done, total)


def _testable(examples: Sequence[Example], databases: Databases, golds: GoldCache, parts: Parts) -> set[str]:
    """The examples whose gold runs on one of their suite's databases, whatever was predicted: of others it says nothing."""
    files = {db_id: databases.suite_databases(db_id) for db_id in {example.db_id for example in examples}}
    found: set[str] = set()
    tick = parts("suite gold") if any(files.values()) else unheard
    for number in range(max(map(len, files.values()), default=0)):
        waiting = [x for x in examples if x.example_id not in found and number < len(files[x.db_id])]
        places = [files[example.db_id][number] for example in waiting]
        known = _golds(waiting, places, golds, check_ties=False, tick=tick)
        found |= {example_id for example_id, gold in known.items() if gold.result.is_ok}
    return found


def _verdict(example: Example, prediction: str, gold: Gold | None, comparison: Comparison | None) -> Verdict:
    """The verdict by execution on the main database; without a gold the caller knows what is wrong with the example."""
    kind = _kind(gold, comparison)
    is_judged = kind is not VerdictKind.GOLD_ERROR
    failed = False if is_judged else None
    failure = "" if gold is None or gold.result.is_ok else gold.result.message
    return Verdict(
        example_id=example.example_id,
        db_id=example.db_id,
        hardness=example.difficulty or hardness(example.gold_sql),
        gold_sql=example.gold_sql,
        prediction=prediction,
        kind=kind,
        ex_bag=comparison.ex_bag if comparison and is_judged else failed,
        ex_set=comparison.ex_set if comparison and is_judged else failed,
        ts_bag=None,
        exact_set_match=None,
        soft_f1=comparison.soft_f1 if comparison and is_judged else None,
        vacuous=bool(gold and is_judged and gold.is_vacuous),
        ties=bool(gold and is_judged and gold.rests_on_ties),
        message=failure or (comparison.message if comparison else ""),
        seconds=comparison.seconds if comparison else 0.0,
        question=example.question,
    )


def _with_text_metrics(verdict: Verdict, databases: Databases, golds: GoldCache, suite: Mapping[str, bool]) -> Verdict:
    """The verdict with the metrics that are not about its execution on the main database; `suite` has those that it can test."""
    if verdict.kind is VerdictKind.GOLD_ERROR:
        return verdict
    settings = golds.settings
    official = settings.exact_match == "official"
    matcher = databases.matcher(verdict.db_id, official) if settings.exact_match else None
    matches = None
    if matcher is not None and verdict.kind in (VerdictKind.REFUSED, VerdictKind.MISSING):
        matches = None if matcher(verdict.gold_sql, "") is None else False  # not worth reading, perhaps megabytes
        if official and verdict.message == "more than one statement":
            matches = matcher(verdict.gold_sql, verdict.prediction)  # the official evaluator reads the first
    elif matcher is not None:
        dialect = databases.of(verdict.db_id).dialect
        prediction = mend_operators(verdict.prediction, dialect) if settings.mend_operators else verdict.prediction
        matches = matcher(verdict.gold_sql, prediction)
    soft = 0.0 if settings.soft_f1 and verdict.soft_f1 is None else verdict.soft_f1
    return replace(verdict, ts_bag=suite.get(verdict.example_id), exact_set_match=matches, soft_f1=soft)


def _with_rewards(verdicts: list[Verdict], databases: Databases, golds: GoldCache, parts: Parts) -> list[Verdict]:
    """The verdicts with their R-VES rewards; statements run one at a time, when all else is done."""
    correct = [verdict for verdict in verdicts if verdict.ex_set]
    pairs = [Pair(verdict.gold_sql, verdict.prediction, databases.of(verdict.db_id)) for verdict in correct]
    measured = measure_rewards(pairs, golds.settings, golds.sandbox, parts("time") if pairs else unheard)
    rewards = dict(zip((verdict.example_id for verdict in correct), measured, strict=True))
    return [
        verdict if verdict.ex_set is None else replace(verdict, ves_reward=rewards.get(verdict.example_id, 0.0))
        for verdict in verdicts
    ]


def _kind(gold: Gold | None, comparison: Comparison | None) -> VerdictKind:
    if gold is None or not gold.result.is_ok:
        return VerdictKind.GOLD_ERROR
    if comparison is None:
        return VerdictKind.MISSING
    if comparison.kind is ResultKind.OK:
        return VerdictKind.CORRECT if comparison.ex_bag else VerdictKind.WRONG
    return {ResultKind.TIMEOUT: VerdictKind.TIMEOUT, ResultKind.REFUSED: VerdictKind.REFUSED}.get(
        comparison.kind, VerdictKind.ERROR
    )
