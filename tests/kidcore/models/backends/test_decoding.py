"""Answers of many prompts at once against a slow, obvious reference: one prompt, the whole text again for each token."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import Qwen2ForCausalLM

from kidcore.models.backends.decoding import can_decode, decode
from kidcore.models.backends.gumbel import Draw, Noise, drawn, perturbed
from kidcore.models.backends.packed import can_share
from tests.train.small import VOCAB_SIZE, make_student


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    model = make_student().eval()
    assert can_share(model)
    assert can_decode(model)
    return model


@torch.no_grad()
def _alone(
    model: Qwen2ForCausalLM, prompt: Sequence[int], limit: int, stops: set[int], seed: int = -1, inverted: bool = False
) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < limit:
        logits_V = model(torch.tensor([[*prompt, *tokens]])).logits[0, -1]
        if seed >= 0 and inverted:
            logits_V = drawn([seed], 0.9, [len(tokens)], logits_V[None])[0]
        elif seed >= 0:
            logits_V = perturbed(seed, 0.9, len(tokens), logits_V)
        token = int(logits_V.argmax())
        if token in stops:
            break
        tokens.append(token)
    return tokens


def _prompts(seed: int, number: int, longest: int) -> list[list[int]]:
    """Prompts that begin alike more or less far, some of them twice."""
    rng = np.random.default_rng(seed)
    trunk = rng.integers(1, VOCAB_SIZE, longest)
    prompts: list[list[int]] = []
    for _ in range(number):
        shared = int(rng.integers(0, longest))
        own = rng.integers(1, VOCAB_SIZE, int(rng.integers(1, 6)))
        prompts.append(prompts[-1] if prompts and rng.random() < 0.2 else [*trunk[:shared].tolist(), *own.tolist()])
    return prompts


@given(
    seed=st.integers(0, 2**31),
    number=st.integers(1, 12),
    longest=st.integers(1, 40),
    batch_tokens=st.sampled_from([1, 30, 90, 4000]),
    how=st.sampled_from(["greedy", "noise", "inverted"]),
)
@example(seed=0, number=12, longest=40, batch_tokens=30, how="greedy")
@settings(max_examples=12, deadline=None)
def test_answers_are_those_of_each_prompt_alone(
    model: Qwen2ForCausalLM, seed: int, number: int, longest: int, batch_tokens: int, how: str
) -> None:
    prompts = _prompts(seed, number, longest)
    rng = np.random.default_rng(seed)
    limits = rng.integers(1, 9, number).tolist()
    stops = set(rng.integers(1, VOCAB_SIZE, 12).tolist())
    seeds = [-1] * number if how == "greedy" else list(range(number))
    draw = {"greedy": None, "noise": Noise(seeds, 0.9).at, "inverted": Draw(seeds, 0.9).at}[how]
    arrays = [np.array(prompt, np.int32) for prompt in prompts]
    found = list(decode(model, arrays, limits, sorted(stops), batch_tokens, draw))
    assert sorted(index for index, _ in found) == list(range(number))
    for index, answer in found:
        expected = _alone(model, prompts[index], limits[index], stops, seeds[index], inverted=how == "inverted")
        assert answer == expected


def test_shared_beginnings_are_read_once_and_finished_answers_cost_nothing(model: Qwen2ForCausalLM) -> None:
    trunk = list(range(1, 31))
    prompts = [[*trunk, 1 + number] for number in range(20)]
    limits = [2] * 19 + [12]
    rows: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda _module, inputs: rows.append(inputs[0].numel()))
    try:
        found = dict(decode(model, [np.array(x, np.int32) for x in prompts], limits, [], 4000))
    finally:
        hook.remove()
    assert [len(found[number]) for number in range(20)] == limits
    # 30 + 20 tokens of prompts, padded to a size that comes more often, a second token for all, and ten more for the last one.
    assert rows == [56, 20, *[1] * 10]


def test_the_cache_grows_with_long_answers(model: Qwen2ForCausalLM) -> None:
    prompts = [[3, 4], [3, 5, 6]]
    found = dict(decode(model, [np.array(x, np.int32) for x in prompts], [150, 3], [], 400))
    assert [found[number] for number in (0, 1)] == [_alone(model, prompts[0], 150, set()), _alone(model, prompts[1], 3, set())]


def test_answers_in_half_precision_follow_the_same_hidden_states() -> None:
    model = make_student().to(torch.bfloat16).eval()
    assert can_share(model)
    assert can_decode(model)


def test_a_model_without_tree_attention_is_left_to_others() -> None:
    assert not can_decode(make_student().eval())


def test_answers_of_a_student_under_autocast(model: Qwen2ForCausalLM) -> None:
    prompts = [np.array(x, np.int32) for x in ([3, 4, 9], [3, 5, 6, 7])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert can_decode(model)
        together = dict(decode(model, prompts, [6, 6], [], 400))
        apart = [dict(decode(model, [prompt], [6], [], 400))[0] for prompt in prompts]
    assert [together[0], together[1]] == apart
