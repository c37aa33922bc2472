"""The vLLM engine against transformers on one tiny model: the same numbers, with and without its prefix cache."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Sampling, ScoreRequest
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.backends.vllm import VllmBackend
from tests.kidcore.models.backends.conftest import News, assert_same, open_vllm, random_requests

pytestmark = [pytest.mark.engine, pytest.mark.vllm]


@pytest.fixture(scope="module", params=[True, False], ids=["prefix cache", "no prefix cache"])
def backend(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[VllmBackend]:
    """Two engines, one after the other in this process."""
    engine = open_vllm(tiny_model, prefix_cache=request.param)
    yield engine
    engine.close()


@pytest.mark.parametrize("shared", [0, 40, 150], ids=lambda shared: f"{shared} tokens shared")
def test_scores_are_those_of_transformers(backend: VllmBackend, reference: TransformersBackend, shared: int) -> None:
    requests = random_requests(40, seed=shared, shared=shared)
    told = News()
    answers = list(backend.score(requests, 16, told))
    assert_same(answers, list(reference.score(requests, 16)))
    assert len(told.heard) > 1
    assert (told.finished, told.heard[-1][1]) == (40, 0)


def test_prompt_scored_twice(backend: VllmBackend, reference: TransformersBackend) -> None:
    """The second time the cache reaches into the scored positions, whose rows must be computed all the same."""
    first, second = random_requests(2, seed=8, shared=150)
    twice = [ScoreRequest(request.token_ids, 60) for request in (first, second, first, second)]
    assert_same(list(backend.score(twice, 8)), list(reference.score(twice, 8)))


def test_duplicates_far_apart(backend: VllmBackend, reference: TransformersBackend) -> None:
    requests = [ScoreRequest(request.token_ids, 60) for request in random_requests(4, seed=18, shared=150)]
    assert_same(list(backend.score(requests * 2, 8)), list(reference.score(requests * 2, 8)))


def test_views_of_one_example_share_part_of_their_sql(backend: VllmBackend, reference: TransformersBackend) -> None:
    gold = random_requests(1, seed=9, shared=250)[0].token_ids
    views = []
    for position in range(100, 200, 10):
        view = gold[:230].copy()
        view[position] = (view[position] + 1) % 380
        views.append(ScoreRequest(view, 90))
    assert_same(list(backend.score(views, 8)), list(reference.score(views, 8)))


def test_longest_sequence_is_scored(backend: VllmBackend, reference: TransformersBackend) -> None:
    requests = [ScoreRequest(3 + np.arange(512, dtype=np.int32) % 400, start) for start in (1, 500)]
    assert_same(list(backend.score(requests, 4)), list(reference.score(requests, 4)))


def test_shared_prefixes_are_computed_once(backend: VllmBackend) -> None:
    before = backend.cached_tokens
    requests = random_requests(40, seed=10, shared=150)
    list(backend.score(requests, 4))
    served = (backend.cached_tokens - before) / sum(len(request.token_ids) for request in requests)
    assert served > 0.6 if backend._reads_cache else served == 0


def test_answers_depend_on_the_call_alone(backend: VllmBackend) -> None:
    requests = random_requests(30, seed=11, shared=100)
    first = list(backend.score(requests, 8))
    list(backend.score(requests[10:20], 8))
    for before, after in zip(first, backend.score(requests, 8), strict=True):
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.logprobs, after.logprobs)
        np.testing.assert_array_equal(before.actual_logprob, after.actual_logprob)


def test_abandoned_call_leaves_nothing_behind(backend: VllmBackend, reference: TransformersBackend) -> None:
    abandoned = backend.score(random_requests(60, seed=12), 4)
    next(abandoned)
    requests = random_requests(10, seed=13)
    assert_same(list(backend.score(requests, 4)), list(reference.score(requests, 4)))
    with pytest.raises(AssertionError, match="another call"):
        list(abandoned)


def test_generations_are_those_of_transformers(backend: VllmBackend, reference: TransformersBackend) -> None:
    prompts = [request.token_ids.tolist() for request in random_requests(30, seed=14, shared=60)] + [[5] * 509]
    free = list(reference.generate(prompts, 12, []))
    told = News()
    assert list(backend.generate(prompts, 12, [], None, told)) == free
    assert (told.finished, told.heard[-1][1]) == (31, 0)
    assert len(free[-1]) == 3
    stop_ids = [free[0][4], free[1][0]]
    assert list(backend.generate(prompts, 12, stop_ids)) == list(reference.generate(prompts, 12, stop_ids))


def test_samples_are_decided_by_seed_and_prompt_alone(backend: VllmBackend, reference: TransformersBackend) -> None:
    """More tokens than one step takes, so that prompts are computed in parts; both engines draw alike."""
    prompts = [request.token_ids.tolist() for request in random_requests(9, seed=21)]
    greedy = list(backend.generate(prompts, 8, []))
    drawn = list(backend.generate(prompts, 8, [], Sampling(1.0, 7, 3)))
    assert drawn == list(reference.generate(prompts, 8, [], Sampling(1.0, 7, 3)))
    assert list(backend.generate(prompts[::-1], 8, [], Sampling(1.0, 7, 1))) == drawn[::3][::-1]
    assert list(backend.generate(prompts, 8, [], Sampling(1.0, 8, 3))) != drawn
    assert len(set(map(tuple, drawn[:3]))) > 1
    assert list(backend.generate(prompts, 8, [])) == greedy


def test_nothing_asked_nothing_answered(backend: VllmBackend) -> None:
    assert list(backend.score([], 4)) == []
    assert list(backend.generate([], 4, [])) == []


def test_bad_requests_are_refused_at_once(backend: VllmBackend) -> None:
    request = ScoreRequest(np.array([5, 6, 7], dtype=np.int32), 1)
    with pytest.raises(KidpipeError, match="K = 17 is more than the 16 this engine was started for"):
        backend.score([request], 17)
    with pytest.raises(KidpipeError, match="K = 436 is outside 1 to 435"):
        backend.score([request], 436)
    with pytest.raises(KidpipeError, match="513 tokens is longer"):
        backend.score([ScoreRequest(np.zeros(513, dtype=np.int32), 1)], 4)
    with pytest.raises(KidpipeError, match="empty sequence"):
        backend.score([ScoreRequest(np.zeros(0, dtype=np.int32), 1)], 4)
    with pytest.raises(KidpipeError, match="leaves no room"):
        backend.generate([[5] * 512], 4, [])


def test_prompts_longer_than_a_step_are_scored_in_parts(tiny_model: Path, reference: TransformersBackend) -> None:
    backend = open_vllm(tiny_model, batch_tokens=64)
    requests = random_requests(20, seed=15, shared=150)
    answers = list(backend.score(requests, 16))
    backend.close()
    backend.close()
    assert_same(answers, list(reference.score(requests, 16)))
