"""What the teacher thinks of gold and of imperfect SQL, against a table that says it all."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kidcore.config.stage_settings import ScoreSettings
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.schemas import schema_of
from pipeline.score import gold_score, score, stored_rows
from tests.pipeline.bigram import EOS, TOKENS, Bigram, finished, ids_of, ingest_table, task

SQL = ("SELECT a FROM t", "SELECT b FROM u WHERE a = 1", "a")
ALL = ScoreSettings(top_k=12, tail_mass=0.0)


def rewrites(example_ids: list[str], *imperfect: str, view: int = 0) -> pa.Table:
    n = len(imperfect)
    columns: dict[str, list[Any]] = {
        "example_id": example_ids,
        "db_id": ["d"] * n,
        "view": [view] * n,
        "strategy": ["random"] * n,
        "masked": [[0]] * n,
        "imperfect_ids": [ids_of(text) for text in imperfect],
        "imperfect_sql": list(imperfect),
        "num_masked": [1] * n,
        "num_rewritten": [1] * n,
        "rewritten": [1.0] * n,
        "parses": [True] * n,
    }
    return arrow_table(schema_of("rewrite"), columns)


def expected(model: Bigram, prompt: list[int], sql: list[int]) -> list[float]:
    """Of each SQL token and the end behind it."""
    whole = [prompt[-1], *sql, EOS]
    return [float(model.logprobs[before, token]) for before, token in pairwise(whole)]


def test_gold_is_scored_at_every_position_and_the_end() -> None:
    model, one = Bigram(), task(ingest=ingest_table(*SQL))
    output = gold_score(ALL, TOKENS, model, one)
    rows = output.table
    assert rows.schema == schema_of("gold_score")
    for text, prompt, actual in zip(SQL, lists(rows, "prompt_ids"), lists(rows, "actual_logprob"), strict=True):
        np.testing.assert_allclose(actual, expected(model, prompt.tolist(), ids_of(text)), rtol=1e-6)
    assert [len(row) for row in lists(rows, "topk_count")] == [len(text.split()) + 1 for text in SQL]
    positions = sum(len(text.split()) + 1 for text in SQL)
    assert output.counts == {"in": 3, "out": 3, "positions": positions, "stored_ids": 12 * positions}
    assert finished(one) == 3


def test_what_was_set_aside_is_not_scored_and_rows_do_not_mix() -> None:
    prompts = [[2, 5], [2, 3], [2, 4]]
    whole = gold_score(ALL, TOKENS, Bigram(), task(ingest=ingest_table(*SQL, prompts=prompts))).table
    model = Bigram()
    table = ingest_table(*SQL, reasons=[None, "too long", None], prompts=prompts)
    kept = gold_score(ALL, TOKENS, model, task(ingest=table)).table
    assert kept.to_pylist() == [whole.to_pylist()[0], whole.to_pylist()[2]]
    assert len(model.asked) == 2
    empty = gold_score(ALL, TOKENS, model, task(ingest=ingest_table("a", reasons=["x"])))
    assert (empty.table.num_rows, empty.counts["positions"]) == (0, 0)


def test_an_engine_sees_prompts_that_begin_alike_one_after_the_other() -> None:
    model = Bigram()
    prompts = [[5, 6], [2, 3], [5, 6], [2, 4], [5, 7]]
    gold_score(ALL, TOKENS, model, task(ingest=ingest_table(*"abtu1", prompts=prompts)))
    begins = [request.token_ids[0] for request in model.asked]
    assert begins in ([2, 2, 5, 5, 5], [5, 5, 5, 2, 2])


def test_more_than_the_vocabulary_is_never_asked_for_and_the_settings_cut() -> None:
    ingest = ingest_table(*SQL)
    wide = gold_score(ScoreSettings(top_k=64, tail_mass=0.0), TOKENS, Bigram(), task(ingest=ingest))
    narrow = gold_score(ScoreSettings(top_k=3, tail_mass=0.0), TOKENS, Bigram(), task(ingest=ingest))
    assert wide.counts["stored_ids"] == 12 * wide.counts["positions"]
    assert narrow.counts["stored_ids"] == 3 * narrow.counts["positions"]
    cut = gold_score(ScoreSettings(top_k=12, tail_mass=0.4), TOKENS, Bigram(), task(ingest=ingest))
    assert cut.counts["stored_ids"] < narrow.counts["stored_ids"] * 2
    assert all((row < 0.4).all() for row in lists(cut.table, "tail"))


@pytest.fixture
def gold() -> pa.Table:
    return gold_score(ALL, TOKENS, Bigram(), task(ingest=ingest_table(*SQL))).table


def test_imperfect_sql_is_scored_and_gold_looked_up_at_its_positions(gold: pa.Table) -> None:
    model = Bigram()
    changed = ("SELECT b FROM t", "SELECT b FROM u WHERE b = 2", "b")
    one = task(1, gold_score=gold, rewrite=rewrites(gold.column("example_id").to_pylist(), *changed, view=1))
    output = score(ALL, TOKENS, lambda: model, one)
    table = output.table
    assert table.schema == schema_of("score")
    for text, old, prompt, actual, wanted in zip(
        changed, SQL, lists(table, "prompt_ids"), lists(table, "actual_logprob"), lists(table, "gold_logprob"), strict=True
    ):
        whole = [int(prompt[-1]), *ids_of(text)]
        np.testing.assert_allclose(actual, expected(model, prompt.tolist(), ids_of(text)), rtol=1e-6)
        np.testing.assert_allclose(
            wanted, [model.logprobs[before, token] for before, token in zip(whole, [*ids_of(old), EOS], strict=True)]
        )
    assert table.column("view").to_pylist() == [1, 1, 1]
    assert output.counts["reused_gold"] == 0
    assert finished(one) == 3


def test_where_nothing_changed_the_gold_score_is_taken_and_no_engine_started(gold: pa.Table) -> None:
    def never() -> Bigram:
        raise AssertionError("an engine was started for nothing")

    one = task(gold_score=gold, rewrite=rewrites(gold.column("example_id").to_pylist(), *SQL))
    output = score(ALL, TOKENS, never, one)
    for name in ("topk_count", "topk_ids", "topk_logprobs", "tail", "actual_logprob"):
        assert output.table.column(name).to_pylist() == gold.column(name).to_pylist()
    assert output.table.column("gold_logprob").to_pylist() == gold.column("actual_logprob").to_pylist()
    assert (output.counts["reused_gold"], finished(one)) == (3, 3)


def test_of_a_mixture_only_what_changed_is_asked_and_each_keeps_its_row(gold: pa.Table) -> None:
    model, mixed = Bigram(), (SQL[0], "SELECT a FROM u WHERE a = 1", SQL[2])
    ids = gold.column("example_id").to_pylist()
    one = task(gold_score=gold, rewrite=rewrites(ids, *mixed))
    output = score(ALL, TOKENS, lambda: model, one)
    assert len(model.asked) == 1
    assert (finished(one), one.advance.times) == (3, 1), "rows that cost nothing go along with one that does"  # type: ignore[attr-defined]
    alone = score(ALL, TOKENS, Bigram, task(gold_score=gold, rewrite=rewrites(ids, *mixed))).table
    assert output.table.equals(alone)
    assert output.counts["reused_gold"] == 2
    assert output.table.column("actual_logprob").to_pylist()[2] == gold.column("actual_logprob").to_pylist()[2]


def test_an_answer_of_another_length_has_its_own_tokens_for_gold(gold: pa.Table) -> None:
    ids = gold.column("example_id").to_pylist()
    table = rewrites(ids, "SELECT a", "SELECT b FROM u WHERE a = 1 1", "b a")
    output = score(ALL, TOKENS, Bigram, task(gold_score=gold, rewrite=table)).table
    assert output.column("gold_logprob").to_pylist() == output.column("actual_logprob").to_pylist()


def test_an_empty_answer_is_its_end_alone(gold: pa.Table) -> None:
    ids = gold.column("example_id").to_pylist()
    output = score(ALL, TOKENS, Bigram, task(gold_score=gold, rewrite=rewrites(ids, "", SQL[1], SQL[2]))).table
    prompt = lists(output, "prompt_ids")[0]
    (end,) = lists(output, "actual_logprob")[0]
    assert end == pytest.approx(Bigram().logprobs[prompt[-1], EOS])


def test_rows_that_are_of_different_examples_are_our_own_mistake(gold: pa.Table) -> None:
    with pytest.raises(AssertionError):
        score(ALL, TOKENS, Bigram, task(gold_score=gold, rewrite=rewrites(["x", "y", "z"], *SQL)))


def test_stored_rows_are_what_was_cut(gold: pa.Table) -> None:
    first = stored_rows(gold)[0]
    assert first.topk_ids.tolist() == gold.column("topk_ids").to_pylist()[0]
    assert first.gold_logprob.tolist() == first.actual_logprob.tolist()
    assert first.topk_logprobs.dtype == np.float16
