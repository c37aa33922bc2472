"""Holes filled by a model of which everything is known: predict, verify and rewrite, row by row."""

from typing import Any

import numpy as np
import pytest

from kidcore.config.stage_settings import PredictSettings
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output
from kidcore.store.schemas import schema_of
from pipeline.predict import predict
from pipeline.rewrite import parses, rewrite
from pipeline.verify import verify_rows
from tests.pipeline.bigram import EOS, MASK, TOKENS, Bigram, decode, finished, ids_of, ingest_table, mask_table, task

SQL = ("SELECT a FROM t", "SELECT b FROM u WHERE a = 1", "a")
MASKED = ([1, 3], [0, 1, 5], [0])
IDS = [f"train:{number}" for number in range(3)]


def predicted(settings: PredictSettings, model: Bigram | None = None, view: int = 0) -> Output:
    one = task(view, ingest=ingest_table(*SQL), mask=mask_table(IDS, *MASKED, view=view))
    output = predict(settings, TOKENS, model or Bigram(), one)
    assert finished(one) == 3
    return output


def candidates(model: Bigram, row: int, hole: int) -> list[int]:
    """The best at a hole, worked out by hand: a hole sees masks at the holes to its left and gold elsewhere."""
    prompt = lists(ingest_table(*SQL), "prompt_ids")[row].tolist()
    place = MASKED[row][hole]
    seen = [*prompt, *[MASK if number in MASKED[row] else token for number, token in enumerate(ids_of(SQL[row]))][:place]]
    order = np.argsort(-model.logprobs[seen[-1]], kind="stable")
    return [int(token) for token in order if token not in (EOS, MASK)]


def test_each_hole_has_the_best_that_the_model_gives_behind_masks() -> None:
    model = Bigram()
    output = predicted(PredictSettings(top_k=4), model)
    assert output.table.schema == schema_of("predict")
    assert output.counts == {"in": 3, "out": 3}
    for row, (masked, filled, holes) in enumerate(
        zip(MASKED, lists(output.table, "filled_ids"), lists(output.table, "hole_ids"), strict=True)
    ):
        for hole, best in enumerate(holes.reshape(len(masked), -1).tolist()):
            slow = candidates(model, row, hole)
            assert best == slow[:4]
            assert filled[hole] == next(token for token in slow if token != ids_of(SQL[row])[masked[hole]])


def test_special_tokens_fill_no_hole_though_they_are_likely() -> None:
    model = Bigram()
    model.logprobs[:, EOS] = 5.0
    model.logprobs[:, MASK] = 4.0
    for rule in ("argmax", "argmax_wrong", "sample"):
        output = predicted(PredictSettings.model_validate({"fill": rule, "top_k": 4}), model)
        assert {EOS, MASK}.isdisjoint(token for row in lists(output.table, "filled_ids") for token in row.tolist())


def test_views_are_drawn_apart_and_each_the_same_again() -> None:
    settings = PredictSettings(fill="sample", temperature=5.0, top_k=10)
    first, again, other = (predicted(settings, view=view).table.column("filled_ids").to_pylist() for view in (0, 0, 1))
    assert first == again
    assert first != other
    assert predicted(settings.model_copy(update={"seed": 1})).table.column("filled_ids").to_pylist() != first


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    settings = PredictSettings(fill="sample", temperature=5.0, top_k=10)
    together = predicted(settings).table.to_pylist()
    for row in range(3):
        reasons = [None if number == row else "aside" for number in range(3)]
        prompts = lists(ingest_table(*SQL), "prompt_ids")
        ingest = ingest_table(*SQL, reasons=reasons, prompts=[prompt.tolist() for prompt in prompts])
        alone = predict(settings, TOKENS, Bigram(), task(ingest=ingest, mask=mask_table([IDS[row]], MASKED[row])))
        assert alone.table.to_pylist() == [together[row]]


def test_masks_of_other_examples_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        predict(PredictSettings(), TOKENS, Bigram(), task(ingest=ingest_table(*SQL), mask=mask_table(["x", "y", "z"], *MASKED)))


def verified(top_k: int, settings: PredictSettings | None = None) -> tuple[Output, Any]:
    proposed = predicted(PredictSettings(fill="argmax", predictor="student"), Bigram(seed=1)).table
    one = task(ingest=ingest_table(*SQL), predict=proposed)
    output = verify_rows(settings or PredictSettings(fill="verify", top_k=2), top_k, TOKENS, Bigram(), one)
    assert finished(one) == 3
    return output, proposed


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("propose", ["argmax", "argmax_wrong"])
def test_a_proposal_is_judged_behind_the_proposals_before_it(top_k: int, propose: str) -> None:
    teacher = Bigram()
    settings = PredictSettings.model_validate({"fill": "verify", "propose": propose, "top_k": 4})
    output, proposed = verified(top_k, settings)
    assert output.table.schema == schema_of("verify")
    for row, (masked, filled, accepted, old) in enumerate(
        zip(
            MASKED,
            *(lists(output.table, name) for name in ("filled_ids", "accepted")),
            lists(proposed, "filled_ids"),
            strict=True,
        )
    ):
        prompt = lists(ingest_table(*SQL), "prompt_ids")[row].tolist()
        sql = ids_of(SQL[row])
        for place, token in zip(masked, old.tolist(), strict=True):
            sql[place] = token
        for hole, place in enumerate(masked):
            before = [*prompt, *sql][len(prompt) + place - 1]
            best = [int(token) for token in np.argsort(-teacher.logprobs[before], kind="stable") if token not in (EOS, MASK)]
            own = next(token for token in best if propose == "argmax" or token != ids_of(SQL[row])[place])
            assert accepted[hole] == (old[hole] in best[:top_k])
            assert filled[hole] == (old[hole] if accepted[hole] else own)


def test_where_the_teachers_best_is_gold_its_second_best_is_the_error() -> None:
    teacher, ingest, masks = Bigram(), ingest_table("SELECT a FROM t"), mask_table(IDS[:1], [1])
    teacher.logprobs[ids_of("SELECT"), ids_of("a")] = 5.0
    teacher.logprobs[ids_of("SELECT"), ids_of("b")] = 4.0
    student = Bigram()
    student.logprobs[ids_of("SELECT"), ids_of("u")] = 5.0
    proposed = predict(PredictSettings(fill="argmax"), TOKENS, student, task(ingest=ingest, mask=masks)).table
    settings = PredictSettings(fill="verify", propose="argmax_wrong", top_k=2)
    row = verify_rows(settings, 1, TOKENS, teacher, task(ingest=ingest, predict=proposed)).table.to_pylist()[0]
    assert (row["filled_ids"], row["accepted"]) == (ids_of("b"), [False])


def test_all_are_kept_where_all_are_allowed_and_counts_say_how_many() -> None:
    output, proposed = verified(10)
    assert output.table.column("filled_ids").to_pylist() == proposed.column("filled_ids").to_pylist()
    assert output.counts == {"in": 3, "out": 3, "proposed": 6, "accepted": 6}
    few, _ = verified(1)
    assert few.counts["accepted"] == sum(sum(row) for row in few.table.column("accepted").to_pylist()) < 6


def test_predictions_are_put_into_gold_and_what_is_verified_comes_first() -> None:
    ingest, masks = ingest_table(*SQL), mask_table(IDS, *MASKED)
    proposed = predicted(PredictSettings(fill="argmax")).table
    one = task(ingest=ingest, mask=masks, predict=proposed)
    output = rewrite(decode, lambda _db_id: "sqlite", one)
    assert output.table.schema == schema_of("rewrite")
    for row, text in enumerate(output.table.column("imperfect_sql").to_pylist()):
        sql = ids_of(SQL[row])
        for place, token in zip(MASKED[row], lists(proposed, "filled_ids")[row].tolist(), strict=True):
            sql[place] = token
        assert text == decode(sql)
        changed = sum(new != old for new, old in zip(sql, ids_of(SQL[row]), strict=True))
        assert output.table.column("num_rewritten")[row].as_py() == changed
        assert output.table.column("rewritten")[row].as_py() == pytest.approx(changed / len(MASKED[row]))
    output, proposed = verified(1)
    table = output.table
    other = rewrite(decode, lambda _db_id: "sqlite", task(ingest=ingest, mask=masks, predict=proposed, verify=table)).table
    put = [
        imperfect[masked].tolist()
        for imperfect, masked in zip(lists(other, "imperfect_ids"), lists(masks, "masked"), strict=True)
    ]
    assert put == table.column("filled_ids").to_pylist() != proposed.column("filled_ids").to_pylist()


def test_counts_of_a_rewrite_are_sums_over_its_rows() -> None:
    one = task(ingest=ingest_table(*SQL), mask=mask_table(IDS, *MASKED), predict=predicted(PredictSettings()).table)
    output = rewrite(decode, lambda _db_id: "sqlite", one)
    rows = output.table.to_pylist()
    assert output.counts == {
        "in": 3,
        "out": 3,
        "sql_tokens": 4 + 8 + 1,
        "masked": 6,
        "rewritten": sum(row["num_rewritten"] for row in rows),
        "changed_rows": sum(row["num_rewritten"] > 0 for row in rows),
        "parse": sum(row["parses"] for row in rows),
    }
    assert finished(one) == 3


def test_gold_that_stays_gold_keeps_its_own_text() -> None:
    ingest = ingest_table("SELECT  a FROM\tt")
    filled = {"masked": [[1]], "filled_ids": [ids_of("a")], "hole_ids": [ids_of("a")], "hole_logprobs": [[0.0]]}
    same = arrow_table(schema_of("predict"), {"example_id": IDS[:1], "db_id": ["d"], "view": [0], **filled})
    text = rewrite(decode, lambda _db_id: "sqlite", task(ingest=ingest, mask=mask_table(IDS[:1], [1]), predict=same)).table
    assert text.column("imperfect_sql").to_pylist() == ["SELECT  a FROM\tt"]


@pytest.mark.parametrize(
    ("sql", "dialect", "is_one"),
    [
        ("SELECT a FROM t", "sqlite", True),
        ("SELECT a FROM t;", "sqlite", True),
        ("SELECT 1; SELECT 2", "sqlite", False),
        ("", "sqlite", False),
        (";", "sqlite", False),
        ("SELECT FROM WHERE", "sqlite", False),
        ("SELECT 'open", "sqlite", False),
        ("SELECT (((", "sqlite", False),
        ("SELECT [1, 2][1]", "duckdb", True),
        ("(" * 5000 + ")" * 5000, "sqlite", False),
    ],
)
def test_one_query_that_parses(sql: str, dialect: str, is_one: bool) -> None:
    assert parses(sql, dialect) is is_one
