"""A model's own answers, row by row, by a model of which every number is known: generate keeps the good ones, rollout all."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kidcore.config.stage_settings import GenerateSettings, RolloutSettings
from kidcore.store.arrow import lists
from kidcore.store.graph import Output
from kidcore.store.schemas import schema_of
from pipeline.generate import generate
from pipeline.rollout import rollout
from tests.pipeline.bigram import EOS, MASK, SIZE, TOKENS, WORDS, Bigram, decode, finished, ids_of, ingest_table, task

SQL = ("SELECT a FROM t", "a", "b")
PROMPTS = ([9, 3], [2, 4], [5, 5])


def chain(*sentences: str, vocab_size: int = SIZE) -> Bigram:
    """A model that is sure of these continuations, word by word from the prompt's last on."""
    model = Bigram(vocab_size=vocab_size)
    model.logprobs[:] = -50.0
    for sentence in sentences:
        words = [int(word) if word.isdigit() and int(word) >= SIZE else WORDS.index(word) for word in sentence.split()]
        for before, after in pairwise(words):
            model.logprobs[before, after] = 0.0
    return model


def known(ids: list[int]) -> str:
    """The text of those ids that are tokens."""
    return " ".join(WORDS[index] for index in ids if index < SIZE)


def generated(model: Bigram, view: int = 0, max_length: int = 64, **settings: Any) -> Output:
    one = task(view, ingest=ingest_table(*SQL, prompts=PROMPTS))
    output = generate(GenerateSettings(**settings), [EOS, MASK], SIZE, max_length, decode, model, one)
    assert finished(one) == 3
    assert output.table.schema == schema_of("generate")
    return output


def rolled(model: Bigram, view: int = 0, max_length: int = 64, **settings: Any) -> Output:
    one = task(view, ingest=ingest_table(*SQL, prompts=PROMPTS))
    chosen = RolloutSettings(**{"temperature": 0.0} | settings)
    output = rollout(chosen, TOKENS, [EOS, MASK], max_length, known, lambda _db_id: "sqlite", model, one)
    assert finished(one) == 3
    assert output.table.schema == schema_of("rollout")
    return output


def test_an_answer_goes_to_its_end_and_what_has_none_or_is_empty_is_set_aside() -> None:
    model = chain("a = 1 </s>", "b b", "FROM </s>")
    output = generated(model, max_new_tokens=6)
    assert output.table.column("generated_sql").to_pylist() == ["= 1", "b b b b b b", ""]
    assert output.table.column("reason").to_pylist() == [
        None,
        "generation cut off: 6 tokens, generate.max_new_tokens is 6",
        "generation is empty",
    ]
    assert output.counts == {
        "in": 3,
        "out": 1,
        "set_aside": {"generation cut off": 1, "generation is empty": 1},
        "tokens": 8,
        "gold": 0,
    }


def test_gold_answers_are_counted() -> None:
    one = task(ingest=ingest_table("t", "a", prompts=PROMPTS[:2]))
    counts = generate(GenerateSettings(), [EOS], SIZE, 64, decode, chain("a t </s>", "b </s>"), one).counts
    assert (counts["gold"], counts["out"]) == (1, 1)


@pytest.mark.parametrize(("max_length", "is_cut"), [(2 + 3, False), (2 + 2, True)])
def test_a_sequence_has_room_for_its_end(max_length: int, is_cut: bool) -> None:
    output = generated(chain("a = 1 </s>", "b = 1 </s>", "FROM = 1 </s>"), max_length=max_length)
    assert [bool(reason) for reason in output.table.column("reason").to_pylist()] == [is_cut] * 3


def test_an_answer_with_an_id_that_is_no_token_is_set_aside() -> None:
    one = task(ingest=ingest_table(*SQL, prompts=PROMPTS))
    model = chain("a = 13 1 </s>", "b </s>", "FROM </s>", vocab_size=16)
    reasons = generate(GenerateSettings(), [EOS], SIZE, 64, known, model, one).table.column("reason").to_pylist()
    assert reasons[0] == f"generation has an id that is no token: 13, the tokenizer has {SIZE}"


def test_an_answer_exactly_as_long_as_allowed_may_have_gone_on_and_is_set_aside() -> None:
    model = chain("a = 1 </s>", "b = 1 </s>", "FROM = 1 </s>")
    assert generated(model, max_new_tokens=3).counts["out"] == 3
    assert generated(model, max_new_tokens=2).counts["out"] == 0


def test_any_end_token_ends_an_answer_and_rows_stay_in_their_place() -> None:
    output = generated(chain("a = <mask>", "b 2 </s>", "FROM u 1 </s>"))
    assert output.table.column("generated_sql").to_pylist() == ["=", "2", "u 1"]
    assert output.table.column("example_id").to_pylist() == ["train:0", "train:1", "train:2"]
    assert [row.tolist() for row in lists(output.table, "prompt_ids")] == [list(prompt) for prompt in PROMPTS]


def test_samples_differ_by_number_and_are_the_same_again_whatever_else_is_asked() -> None:
    hot = {"temperature": 1.0, "max_new_tokens": 8}
    first, again, other = (generated(Bigram(), view, **hot).table.column("generated_ids").to_pylist() for view in (0, 0, 1))
    assert first == again
    assert first != other
    alone = generate(
        GenerateSettings(**hot),
        [EOS, MASK],
        SIZE,
        64,
        decode,
        Bigram(),
        task(ingest=ingest_table(*SQL, prompts=PROMPTS, reasons=["x", None, "y"])),
    )
    assert alone.table.column("generated_ids").to_pylist() == [first[1]]


def test_a_students_answer_is_kept_whatever_it_is() -> None:
    output = rolled(chain("a SELECT 1 </s>", "b b", "FROM </s>"), max_new_tokens=3)
    rows = output.table.to_pylist()
    assert [row["imperfect_sql"] for row in rows] == ["SELECT 1", "b b b", ""]
    assert [row["ends"] for row in rows] == [True, False, True]
    assert output.counts["out"] == output.counts["in"] == 3
    assert output.counts["ended"] == sum(row["ends"] for row in rows)
    assert all(row["masked"] == [] for row in rows)


def test_answers_are_cut_to_what_leaves_room_for_their_end_and_then_do_not_end() -> None:
    model = chain("a SELECT 1 </s>", "b 2 </s>", "FROM </s>")
    rows = rolled(model, max_length=2 + 1 + 1).table.to_pylist()
    assert [row["imperfect_sql"] for row in rows] == ["SELECT", "2", ""]
    assert [row["ends"] for row in rows] == [False, True, True]
    assert [row["imperfect_sql"] for row in rolled(model, max_length=2).table.to_pylist()] == ["", "", ""]


def test_an_id_that_is_no_token_cuts_the_answer() -> None:
    model = chain("a = 13 1 </s>", "b </s>", "FROM </s>", vocab_size=16)
    first = rolled(model).table.to_pylist()[0]
    assert (first["imperfect_ids"], first["ends"]) == (ids_of("="), False)


def test_what_parses_and_what_is_gold_is_counted() -> None:
    model = chain("a SELECT 1 </s>", "b = FROM </s>", "FROM </s>")
    output = rolled(model)
    assert [row["parses"] for row in output.table.to_pylist()] == [True, False, False]
    assert (output.counts["parse"], output.counts["gold"], output.counts["tokens"]) == (1, 0, 4)


def test_the_student_sees_prompts_that_begin_alike_side_by_side() -> None:
    model = Bigram()
    prompts = ([5, 6], [2, 3], [5, 7])
    one = task(ingest=ingest_table(*SQL, prompts=prompts))
    generate(GenerateSettings(max_new_tokens=4), [EOS], SIZE, 64, decode, model, one)
    assert np.diff([prompt[0] for prompt in model.asked]).tolist().count(0) == 1
