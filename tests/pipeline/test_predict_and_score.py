"""Fills, cuts and whole stages against slow obvious versions on a real small model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kidcore.config.stage_settings import PredictSettings
from kidcore.method.filling import fill
from kidcore.method.topk import cut
from kidcore.models.backends.base import TopK
from kidcore.models.tokenizers import Tokens
from kidcore.store.arrow import lists
from kidcore.store.store import Shard
from tests.conftest import configure
from tests.pipeline.running import files, run_build, store_of


def top_k(rng: np.random.Generator, rows: int, vocab: int, k: int, scale: float = 3.0) -> tuple[TopK, NDArray[np.float64]]:
    logits = rng.normal(size=(rows, vocab)) * scale
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    ids = np.argsort(-logprobs, axis=1, kind="stable")[:, :k].astype(np.int32)
    kept = np.take_along_axis(logprobs, ids, axis=1).astype(np.float32)
    return TopK(ids, kept, kept[:, 0]), logprobs


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), tail_mass=st.sampled_from([0.0, 1e-4, 1e-2, 0.3]))
def test_a_cut_keeps_the_fewest_ids_that_leave_less_than_the_tail(seed: int, k: int, tail_mass: float) -> None:
    rng = np.random.default_rng(seed)
    answer, logprobs = top_k(rng, rows=4, vocab=20, k=k)
    sequence = answer.ids[:, 0]
    stored = cut(answer, sequence, sequence, tail_mass, 20)
    start = 0
    for row, count in enumerate(stored.topk_count.tolist()):
        ids = stored.topk_ids[start : start + count]
        start += count
        outside = 1 - np.exp(logprobs[row, ids]).sum()
        assert stored.tail[row] == pytest.approx(outside, abs=2e-6)
        assert count == k or outside < tail_mass + 1e-6
        if count > 1:
            assert 1 - np.exp(logprobs[row, ids[:-1]]).sum() >= tail_mass - 1e-6
    assert start == len(stored.topk_ids)


def test_padding_rows_of_the_vocabulary_go_to_the_tail() -> None:
    answer = TopK(np.array([[5, 99, 3]], np.int32), np.log(np.array([[0.5, 0.3, 0.1]], np.float32)), np.zeros(1, np.float32))
    stored = cut(answer, np.array([5]), np.array([5]), 0.0, 90)
    assert stored.topk_ids.tolist() == [5, 3]
    assert stored.topk_count.tolist() == [2]
    np.testing.assert_allclose(stored.tail, [0.4], rtol=1e-6)


def test_the_gold_log_probability_is_known_where_it_can_be() -> None:
    answer = TopK(np.array([[5, 3]] * 3, np.int32), np.log(np.array([[0.6, 0.3]] * 3, np.float32)), np.full(3, -4.0, np.float32))
    stored = cut(answer, np.array([7, 7, 7]), np.array([7, 3, 9]), 0.0, 10)
    np.testing.assert_allclose(stored.gold_logprob, [-4.0, np.log(0.3), np.nan], rtol=1e-6)


HOLES = TopK(
    np.array([[4, 7, 9], [7, 4, -1], [-1, -1, -1]], np.int32),
    np.array([[-0.1, -3, -4], [-0.5, -1, -np.inf], [-np.inf] * 3], np.float32),
    np.zeros(3, np.float32),
)
GOLD = np.array([4, 7, 2], np.int32)


def test_fills_take_the_best_or_the_best_that_is_wrong() -> None:
    rng = np.random.default_rng(0)
    assert fill(PredictSettings(fill="argmax"), HOLES, GOLD, rng).tolist() == [4, 7, 2]
    assert fill(PredictSettings(fill="argmax_wrong"), HOLES, GOLD, rng).tolist() == [7, 4, 2]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_tempered_distribution(temperature: float) -> None:
    rng, draws = np.random.default_rng(1), 20000
    settings = PredictSettings(fill="sample", temperature=temperature)
    drawn = [fill(settings, HOLES, GOLD, rng)[0] for _ in range(draws)]
    weights = np.exp(HOLES.logprobs[0] / temperature)
    for token, expected in zip(HOLES.ids[0], weights / weights.sum(), strict=True):
        share = drawn.count(token) / draws
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / draws) + 1e-9


@pytest.fixture(scope="module")
def built(world: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    settings: dict[str, object] = {
        "data.path": str(world),
        "data.limit": 12,
        "teacher.model": str(tiny_model),
        "engine.backend": "transformers",
        "score.top_k": 16,
        "score.tail_mass": 0.0,
        "store.path": str(tmp_path_factory.mktemp("stages") / "artifacts"),
    }
    return settings


def dense(model: Path, prompt: NDArray[np.int32], sql: NDArray[np.int32]) -> NDArray[np.float32]:
    """Log-probabilities at the SQL positions from one plain forward pass, [n, V]."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        logits = network(torch.tensor(np.concatenate([prompt, sql]))[None].long()).logits[0]
    array: NDArray[np.float32] = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].numpy()
    return array


def test_predictions_are_those_of_a_plain_forward_pass_over_masked_gold(built: dict[str, object], tiny_model: Path) -> None:
    config = configure(built)
    manifest, store = run_build(config).manifest, store_of(config)
    ingest = store.read(shard_of(files(manifest, "ingest")[0]))
    predict = store.read(shard_of(files(manifest, "predict")[0]))
    special = {0, 1, 2, 3}
    for row in range(5):
        prompt, gold = lists(ingest, "prompt_ids")[row], lists(ingest, "gold_ids")[row].copy()
        holes = lists(predict, "masked")[row]
        gold[holes] = manifest.facts.mask_id
        logprobs = dense(tiny_model, prompt, gold)
        for hole, filled in zip(holes, lists(predict, "filled_ids")[row], strict=True):
            allowed = [token for token in np.argsort(-logprobs[hole], kind="stable") if token not in special]
            assert filled == allowed[0]


def test_scores_are_those_of_a_plain_forward_pass_over_the_imperfect_sequence(built: dict[str, object], tiny_model: Path) -> None:
    config = configure(built)
    manifest, store = run_build(config).manifest, store_of(config)
    table = store.read(shard_of(files(manifest, "score")[1]))
    for row in range(5):
        prompt, imperfect = lists(table, "prompt_ids")[row], lists(table, "imperfect_ids")[row]
        sequence = np.append(imperfect, manifest.facts.eos_id).astype(np.int32)
        logprobs = dense(tiny_model, prompt, sequence)
        np.testing.assert_allclose(lists(table, "actual_logprob")[row], logprobs[np.arange(len(sequence)), sequence], atol=2e-4)
        ids = lists(table, "topk_ids")[row].reshape(len(sequence), 16)
        np.testing.assert_allclose(
            lists(table, "topk_logprobs")[row].astype(np.float32).reshape(ids.shape),
            np.take_along_axis(logprobs, ids.astype(np.int64), axis=1),
            atol=4e-3,  # float16
        )
        np.testing.assert_allclose(lists(table, "tail")[row], 1 - np.exp(-np.sort(-logprobs, axis=1)[:, :16]).sum(1), atol=1e-5)


def test_imperfect_differs_from_gold_at_masked_positions_only(built: dict[str, object]) -> None:
    config = configure(built)
    manifest, store = run_build(config).manifest, store_of(config)
    changed = 0
    for file in files(manifest, "score"):
        table = store.read(shard_of(file))
        for gold, imperfect, masked in zip(*(lists(table, n) for n in ("gold_ids", "imperfect_ids", "masked")), strict=True):
            different = np.flatnonzero(gold != imperfect)
            changed += len(different)
            assert set(different) <= set(masked)
    assert changed == manifest.counts["rewrite"]["rewritten"] > 0


def test_unchanged_rows_reuse_the_gold_score(built: dict[str, object], tmp_path: Path) -> None:
    """With a hole in one position and a fill that is gold, nothing is left to score."""
    config = configure(built, mask__ratio=0.01, store__path=str(tmp_path / "artifacts"))
    manifest, store = run_build(config).manifest, store_of(config)
    gold = store.read(shard_of(files(manifest, "gold_score")[0]))
    score = store.read(shard_of(files(manifest, "score")[0]))
    assert manifest.counts["score"]["reused_gold"] < 24
    for row, (old, new) in enumerate(zip(lists(score, "gold_ids"), lists(score, "imperfect_ids"), strict=True)):
        same = np.array_equal(lists(gold, "actual_logprob")[row], lists(score, "actual_logprob")[row])
        assert same == np.array_equal(old, new)


def shard_of(file: str) -> Shard:
    stage, _, name = file.partition("/")
    shard = Shard.parse(stage, name)
    assert shard is not None
    return shard


@pytest.mark.parametrize(("banned", "margin"), [(3, 3), (256, 32)])
def test_hundreds_of_special_tokens_do_not_ask_the_engine_for_hundreds_more(banned: int, margin: int) -> None:
    assert Tokens(mask_id=0, eos_id=1, vocab_size=1000, banned=frozenset(range(banned))).margin == margin
