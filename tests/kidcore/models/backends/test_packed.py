"""Packed scoring against one forward pass a request: the same numbers from fewer tokens, and a fallback that says so."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GraniteConfig, GraniteForCausalLM, Qwen2ForCausalLM

from kidcore.models.backends.base import ScoreRequest, TopK
from kidcore.models.backends.packed import can_share, plan_packs, rank_logits, score_pack
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.trees.attention import has_tree_attention
from tests.kidcore.models.backends.conftest import random_requests
from tests.kidcore.models.trees.drawing import CUDA, tree_tokens
from tests.train.small import VOCAB_SIZE, make_student


@torch.no_grad()
def alone(model: torch.nn.Module, request: ScoreRequest, top_k: int) -> TopK:
    device = next(model.parameters()).device
    ids = torch.from_numpy(request.token_ids).long().to(device)
    logprobs = torch.log_softmax(model(ids[None]).logits[0].float(), -1)[request.start - 1 : -1].cpu().numpy()
    order = np.argsort(-logprobs, axis=-1, kind="stable")[:, :top_k]
    actual = np.take_along_axis(logprobs, request.token_ids[request.start :, None], -1)[:, 0]
    return TopK(order.astype(np.int32), np.take_along_axis(logprobs, order, -1), actual)


def assert_agree(found: TopK, expected: TopK, atol: float = 2e-5) -> None:
    assert found.ids.dtype == np.int32
    assert found.ids.shape == expected.ids.shape
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=atol)
    np.testing.assert_allclose(found.actual_logprob, expected.actual_logprob, atol=atol)


def draw_requests(seed: int, count: int, alphabet: int, longest: int) -> list[ScoreRequest]:
    """Requests over a small alphabet: some are the same, some the beginning of another."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(alphabet, size=rng.integers(2, longest + 1)).astype(np.int32) for _ in range(count)]
    return [ScoreRequest(x, int(rng.integers(1, len(x)))) for x in tokens]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 12),
    alphabet=st.integers(1, 4),
    longest=st.integers(2, 40),
    batch_tokens=st.sampled_from([1, 20, 1000]),
)
@settings(max_examples=20, deadline=None)
def test_packed_answers_are_those_of_each_request_alone(
    device: str, seed: int, count: int, alphabet: int, longest: int, batch_tokens: int
) -> None:
    model = make_student().to(device).eval()
    requests = draw_requests(seed, count, alphabet, longest)
    packs = list(plan_packs([request.token_ids for request in requests], batch_tokens))
    assert sorted(index for pack in packs for index in pack) == list(range(count))
    for pack in packs:
        asked = [requests[index] for index in pack]
        assert tree_tokens([request.token_ids for request in asked]) <= batch_tokens or len(pack) == 1
        for request, answer in zip(asked, score_pack(model, asked, 5), strict=True):
            assert_agree(answer, alone(model, request, 5))


def test_what_requests_share_goes_through_the_model_once(tiny_model: Path) -> None:
    engine = TransformersBackend(tiny_model, dtype="auto", device="cpu", batch_tokens=2000, max_length=512, verbose=False)
    requests = random_requests(40, seed=7, shared=150)
    next(engine.score(requests[:1], 5))
    tokens = 0

    def count(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal tokens
        tokens += inputs[0].numel()

    engine._model.get_input_embeddings().register_forward_pre_hook(count)
    model = Qwen2ForCausalLM.from_pretrained(tiny_model).eval()
    for request, answer in zip(requests, engine.score(requests, 5), strict=True):
        assert_agree(answer, alone(model, request, 5))
    engine.close()
    naive = sum(len(request.token_ids) for request in requests)
    assert tokens < naive / 2


@pytest.mark.parametrize(
    ("kind", "reason"), [("windows", "sliding-window layers"), ("scaled", "changes its logits behind the LM head")]
)
def test_models_that_cannot_share_are_scored_row_by_row_and_it_is_said_once(
    kind: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "windows":
        model = make_student(sliding_window=8).eval()
    else:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
        config = GraniteConfig(**sizes, num_key_value_heads=2, vocab_size=VOCAB_SIZE, logits_scaling=4.0, initializer_range=0.5)
        model = GraniteForCausalLM(config).eval()
    engine = TransformersBackend.around(model, batch_tokens=200, max_length=64)
    requests = draw_requests(3, 9, 4, 40)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for request, answer in zip(requests, engine.score(requests, 5), strict=True):
                assert_agree(answer, alone(model, request, 5))
    assert [reason in record.getMessage() for record in caplog.records] == [True]
    assert not has_tree_attention(model)


def test_models_in_half_precision_share_too() -> None:
    model = make_student().to(torch.bfloat16).eval()
    assert can_share(model)
    assert has_tree_attention(model)
    requests = draw_requests(4, 9, 4, 40)
    for request, answer in zip(requests, score_pack(model, requests, 5), strict=True):
        assert_agree(answer, alone(model, request, 5), atol=0.1)


@given(seed=st.integers(0, 2**31), kinds=st.sampled_from([1, 2, 5, 1000]), top_k=st.integers(1, 30))
@example(seed=179, kinds=1000, top_k=1)
@settings(max_examples=40, deadline=None)
def test_ties_for_the_last_place_go_to_the_lowest_ids(seed: int, kinds: int, top_k: int) -> None:
    logits = torch.from_numpy(np.random.default_rng(seed).integers(kinds, size=(6, 30)).astype(np.float32))
    ids, _, actual = rank_logits(logits, torch.zeros(6, dtype=torch.int64), top_k)
    np.testing.assert_array_equal(ids, torch.sort(logits, descending=True, stable=True).indices[:, :top_k].numpy())
    # A log-softmax is the difference of two numbers as large as the logits: their last bits are its error.
    rounding = 2 * kinds * torch.finfo(torch.float32).eps
    np.testing.assert_allclose(actual, torch.log_softmax(logits, -1)[:, 0].numpy(), rtol=1e-6, atol=max(1e-5, rounding))
