"""What a server is sent, and that nothing it answers is taken for something else."""

from typing import Any

import numpy as np
import pytest

from kidcore.models.backends.base import Sampling
from kidcore.models.backends.served_scores import are_same, fixed_scores
from kidcore.models.backends.served_wire import (
    continuation,
    largest_top_k,
    position,
    read_continuation,
    read_position,
    read_whole_prompt,
    whole_prompt,
)


def prompt_rows(*rows: dict[int, float] | None) -> dict[str, Any]:
    said = [row and {str(token): {"logprob": value, "rank": 1} for token, value in row.items()} for row in rows]
    return {"choices": [{"prompt_logprobs": said, "text": ""}]}


def next_token(**values: float) -> dict[str, Any]:
    return {"choices": [{"logprobs": {"top_logprobs": [values]}}]}


def test_all_positions_are_asked_for_at_once_as_plain_numbers() -> None:
    asked = whole_prompt("m", np.array([5, 6], np.int32), 9)  # type: ignore[arg-type]
    assert asked == {"model": "m", "prompt": [5, 6], "max_tokens": 1, "temperature": 0, "ignore_eos": True, "prompt_logprobs": 9}
    assert all(type(token) is int for token in asked["prompt"])


def test_rows_are_read_from_the_start_on_with_the_token_that_stands_there() -> None:
    answer = prompt_rows(None, {7: -0.5, 2: -1.0}, {9: -3.0, 1: -0.25, 4: -2.0})
    rows = read_whole_prompt(answer, [5, 7, 9], 1)
    assert [(ids.tolist(), logprobs.tolist(), actual) for ids, logprobs, actual in rows] == [
        ([7, 2], [-0.5, -1.0], -0.5),
        ([9, 1, 4], [-3.0, -0.25, -2.0], -3.0),
    ]
    assert (rows[0][0].dtype, rows[0][1].dtype) == (np.int32, np.float32)
    assert len(read_whole_prompt(answer, [5, 7, 9], 2)) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{}]},
        {"choices": [{"prompt_logprobs": None}]},
        {"choices": [{"prompt_logprobs": "x"}]},
        prompt_rows(None, {7: -0.5}),
        prompt_rows(None, {7: -0.5}, {8: -1.0}),
        prompt_rows(None, {7: -0.5}, {}),
    ],
)
def test_a_row_that_is_missing_or_of_other_tokens_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="log-probabilities"):
        read_whole_prompt(answer, [5, 7, 9], 1)


def test_one_position_is_asked_for_with_what_stands_there_as_all_that_may_come() -> None:
    asked = position("m", [5, 6, 7], 2, 4)
    assert asked["prompt"] == [5, 6]
    assert asked["allowed_token_ids"] == [7]
    assert (asked["logprobs"], asked["max_tokens"], asked["return_tokens_as_token_ids"]) == (4, 1, True)


def test_a_position_is_read_by_token_ids() -> None:
    ids, logprobs, actual = read_position(next_token(**{"token_id:7": -1.5, "token_id:12": -0.5}), 7)
    assert (ids.tolist(), logprobs.tolist(), actual) == ([7, 12], [-1.5, -0.5], -1.5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"choices": [{}]}, "names no token ids"),
        ({"choices": [{"logprobs": None}]}, "names no token ids"),
        ({"choices": [{"logprobs": {"top_logprobs": []}}]}, "names no token ids"),
        (next_token(**{"SELECT": -1.0}), "names no token ids"),
        (next_token(**{"token_id:7": -1.0, "a": -2.0}), "names no token ids"),
        (next_token(**{"token_id:8": -1.0}), "leaves out the token"),
    ],
)
def test_a_server_that_did_something_else_is_refused(answer: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_position(answer, 7)


def test_a_continuation_is_greedy_unless_it_is_drawn_with_a_seed_of_its_own() -> None:
    asked = continuation("m", [1, 2], 30, (4, 5), None, 0)
    assert (asked["max_tokens"], asked["temperature"], asked["stop_token_ids"], asked["ignore_eos"]) == (30, 0, [4, 5], True)
    assert "seed" not in asked
    draw = Sampling(0.7, 3)
    drawn = [continuation("m", [1, 2], 30, (4, 5), draw, number) for number in (0, 1)]
    assert [one["temperature"] for one in drawn] == [0.7, 0.7]
    assert [one["seed"] for one in drawn] == [draw.seed_of([1, 2], 0), draw.seed_of([1, 2], 1)]


@pytest.mark.parametrize(("ids", "read"), [([], []), ([3, 1], [3, 1]), ([3, 9, 1], [3]), ([9], []), ([3, 8], [3])])
def test_an_answer_ends_before_its_stop(ids: list[int], read: list[int]) -> None:
    assert read_continuation({"choices": [{"token_ids": ids}]}, {8, 9}) == read


@pytest.mark.parametrize("choice", [{}, {"token_ids": None}, {"token_ids": "SELECT"}, {"text": "SELECT 1"}])
def test_text_alone_is_no_answer(choice: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no token ids"):
        read_continuation({"choices": [choice]}, set())


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("Requested prompt logprobs of 1048576, which is greater than max allowed: 20", 20),
        ("logprobs 99 exceed the maximum allowed 64", 64),
        ("max allowed: 20 sequences", None),
        ("logprobs are not served here", None),
        ("", None),
    ],
)
def test_the_limit_that_a_refusal_states(message: str, limit: int | None) -> None:
    assert largest_top_k(message) == limit


def table_of_scores(shift: float) -> Any:
    """A server whose every row has the asked token and a likelier one."""

    def ask(request: Any) -> dict[str, Any]:
        return prompt_rows(None, *({token: -2.0 - shift, token + 1: -0.5} for token in request["prompt"][1:]))

    return ask


def test_the_fixed_sequences_are_the_same_each_time_and_fit_the_model() -> None:
    asked: list[Any] = []

    def ask(request: Any) -> dict[str, Any]:
        asked.append(request)
        return table_of_scores(0.0)(request)  # type: ignore[no-any-return]

    scores = fixed_scores(ask, "m", 50, 12)
    assert fixed_scores(table_of_scores(0.0), "m", 50, 12) == scores
    assert {len(request["prompt"]) for request in asked} == {12}
    assert all(0 <= token < 50 for request in asked for token in request["prompt"])
    assert set(scores) == {-2.0, -0.5}
    assert len(scores) == 2 * 11 * 2, "each scored position of each sequence, its token and the likeliest"
    assert len(fixed_scores(table_of_scores(0.0), "m", 50, 10_000)) == 2 * 39 * 2


@pytest.mark.parametrize(("shift", "same"), [(0.0, True), (0.01, True), (0.05, True), (0.07, False), (-0.2, False)])
def test_rounding_makes_no_other_model_and_weights_do(shift: float, same: bool) -> None:
    ours, theirs = (fixed_scores(table_of_scores(by), "m", 50, 40) for by in (0.0, shift))
    assert are_same(ours, theirs) is same
    assert are_same(theirs, ours) is same


def test_scores_of_another_length_are_another_models() -> None:
    assert not are_same((-1.0,), (-1.0, -1.0))
    assert not are_same((float("nan"), -1.0), (-1.0, -1.0))
