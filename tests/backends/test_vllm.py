"""The vLLM engine against transformers on one tiny model: the same numbers, with and without its prefix cache."""

import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kidpipe.backends.base import ScoreRequest, TopK
from kidpipe.backends.select import open_backend
from kidpipe.backends.transformers import TransformersBackend
from kidpipe.backends.vllm import VllmBackend
from kidpipe.config import EngineSettings
from kidpipe.errors import KidpipeError
from tests.backends.conftest import random_requests, save_tiny_model

pytestmark = pytest.mark.engine


def _engine(**changes: object) -> EngineSettings:
    return EngineSettings.model_validate({"backend": "vllm", "device": "cpu", "kv_cache_mib": 32, "batch_tokens": 1024} | changes)


def _open(folder: Path, *, max_length: int = 512, **changes: object) -> VllmBackend:
    backend = open_backend(folder, _engine(**changes), max_top_k=16, max_length=max_length)
    assert isinstance(backend, VllmBackend)
    return backend


@pytest.fixture(scope="module", params=[True, False], ids=["prefix cache", "no prefix cache"])
def backend(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[VllmBackend]:
    """Two engines, one after the other in this process."""
    engine = _open(tiny_model, prefix_cache=request.param)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Iterator[TransformersBackend]:
    engine = TransformersBackend(tiny_model, dtype="float32", device="cpu", batch_tokens=2048, max_length=512, verbose=False)
    yield engine
    engine.close()


def _assert_same(ours: list[TopK], theirs: list[TopK]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert (our.ids.dtype, our.logprobs.dtype, our.actual_logprob.dtype) == (np.int32, np.float32, np.float32)
        np.testing.assert_array_equal(our.ids[:, 0], their.ids[:, 0])
        np.testing.assert_allclose(our.logprobs, their.logprobs, atol=2e-4)
        np.testing.assert_allclose(our.actual_logprob, their.actual_logprob, atol=2e-4)


@pytest.mark.parametrize("shared", [0, 40, 150], ids=lambda shared: f"{shared} tokens shared")
def test_scores_are_those_of_transformers(backend: VllmBackend, reference: TransformersBackend, shared: int) -> None:
    requests = random_requests(40, seed=shared, shared=shared)
    _assert_same(list(backend.score(requests, 16)), list(reference.score(requests, 16)))


def test_prompt_scored_twice(backend: VllmBackend, reference: TransformersBackend) -> None:
    """The second time the cache reaches into the scored positions, whose rows must be computed all the same."""
    first, second = random_requests(2, seed=8, shared=150)
    twice = [ScoreRequest(request.token_ids, 60) for request in (first, second, first, second)]
    _assert_same(list(backend.score(twice, 8)), list(reference.score(twice, 8)))


def test_views_of_one_example_share_part_of_their_sql(backend: VllmBackend, reference: TransformersBackend) -> None:
    gold = random_requests(1, seed=9, shared=250)[0].token_ids
    views = []
    for position in range(100, 200, 10):
        view = gold[:230].copy()
        view[position] = (view[position] + 1) % 380
        views.append(ScoreRequest(view, 90))
    _assert_same(list(backend.score(views, 8)), list(reference.score(views, 8)))


def test_longest_sequence_is_scored(backend: VllmBackend, reference: TransformersBackend) -> None:
    requests = [ScoreRequest(3 + np.arange(512, dtype=np.int32) % 400, start) for start in (1, 500)]
    _assert_same(list(backend.score(requests, 4)), list(reference.score(requests, 4)))


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
    _assert_same(list(backend.score(requests, 4)), list(reference.score(requests, 4)))
    with pytest.raises(AssertionError, match="another call"):
        list(abandoned)


def test_generations_are_those_of_transformers(backend: VllmBackend, reference: TransformersBackend) -> None:
    prompts = [request.token_ids.tolist() for request in random_requests(30, seed=14, shared=60)] + [[5] * 509]
    free = list(reference.generate(prompts, 12, []))
    assert list(backend.generate(prompts, 12, [])) == free
    assert len(free[-1]) == 3
    stop_ids = [free[0][4], free[1][0]]
    assert list(backend.generate(prompts, 12, stop_ids)) == list(reference.generate(prompts, 12, stop_ids))


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
    backend = _open(tiny_model, batch_tokens=64)
    requests = random_requests(20, seed=15, shared=150)
    answers = list(backend.score(requests, 16))
    backend.close()
    backend.close()
    _assert_same(answers, list(reference.score(requests, 16)))


def test_process_is_left_as_it_was(tiny_model: Path) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    functions = torch.set_num_threads, torch.accelerator.synchronize, torch.accelerator.empty_cache
    expected = (
        random.Random(1).random(),
        np.random.RandomState(1).random(),
        torch.rand(1, generator=torch.Generator().manual_seed(1)),
    )
    backend = _open(tiny_model)
    assert (random.random(), np.random.random(), torch.rand(1)) == expected
    backend.close()
    assert (torch.set_num_threads, torch.accelerator.synchronize, torch.accelerator.empty_cache) == functions


def test_cache_that_fails_its_test_is_left_alone(
    tiny_model: Path, reference: TransformersBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="kidpipe"):
        backend = _open(tiny_model, max_length=30)  # shorter than a block of the cache
    assert "scoring without vLLM's prefix cache" in caplog.text
    requests = [ScoreRequest(request.token_ids[:30], 20) for request in random_requests(8, seed=16, shared=25)]
    answers = list(backend.score(requests, 4))
    backend.close()
    _assert_same(answers, list(reference.score(requests, 4)))
    assert backend.cached_tokens == 0


def test_model_that_vllm_cannot_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Heads of 16 are too narrow for vLLM's CPU attention."""
    folder = save_tiny_model(tmp_path, heads=4)
    with pytest.raises(KidpipeError, match=r"vLLM cannot run the model[\s\S]*engine.backend to transformers"):
        _open(folder)
    with caplog.at_level(logging.WARNING, logger="kidpipe"):
        backend = open_backend(folder, _engine(backend="auto"), max_top_k=4, max_length=64)
    assert backend.name == "transformers"
    assert "running it with transformers" in caplog.text
    backend.close()


_SILENT = """
import sys
from kidpipe.backends.select import open_backend
from kidpipe.config import EngineSettings
from tests.backends.conftest import random_requests
backend = open_backend(sys.argv[1], EngineSettings(backend="auto", device="cpu", kv_cache_mib=32), max_top_k=4, max_length=512)
assert backend.name == "vllm"
assert len(list(backend.score(random_requests(5, seed=0), 4))) == 5
assert len(list(backend.generate([[5, 6, 7]], 4, []))) == 1
"""


@pytest.mark.parametrize("ending", ["backend.close()", ""], ids=["closed", "left open"])
def test_engine_is_silent(tiny_model: Path, ending: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SILENT + ending, str(tiny_model)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
