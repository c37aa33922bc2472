"""The transformers engine against a slow, obvious reference: one full forward pass a sequence."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2ForCausalLM

from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Sampling, ScoreRequest, TopK
from kidcore.models.backends.transformers import TransformersBackend
from tests.kidcore.models.backends.conftest import News, random_requests


@pytest.fixture(scope="module")
def backend(tiny_model: Path) -> Iterator[TransformersBackend]:
    engine = TransformersBackend(tiny_model, dtype="auto", device="cpu", batch_tokens=600, max_length=512, verbose=False)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM.from_pretrained(tiny_model).eval()


@torch.no_grad()
def _reference(model: Qwen2ForCausalLM, request: ScoreRequest, top_k: int) -> TopK:
    ids = torch.from_numpy(request.token_ids).long()
    logprobs = torch.log_softmax(model(ids[None]).logits[0], -1)[request.start - 1 : -1].numpy()
    order = np.argsort(-logprobs, axis=-1, kind="stable")[:, :top_k]
    actual = np.take_along_axis(logprobs, request.token_ids[request.start :, None], -1)[:, 0]
    return TopK(order.astype(np.int32), np.take_along_axis(logprobs, order, -1), actual)


def test_score_agrees_with_the_reference(backend: TransformersBackend, model: Qwen2ForCausalLM) -> None:
    requests = random_requests(40, seed=1)
    for request, answer in zip(requests, backend.score(requests, 7), strict=True):
        expected = _reference(model, request, 7)
        assert answer.ids.dtype == np.int32
        assert answer.logprobs.dtype == np.float32
        assert answer.ids.shape == (len(request.token_ids) - request.start, 7)
        np.testing.assert_allclose(answer.logprobs, expected.logprobs, atol=2e-5)
        np.testing.assert_allclose(answer.actual_logprob, expected.actual_logprob, atol=2e-5)
        np.testing.assert_array_equal(answer.ids[:, 0], expected.ids[:, 0])


def test_a_pack_is_told_of_when_it_is_done_and_not_when_its_answers_come(backend: TransformersBackend) -> None:
    told = News()
    answers = backend.score(random_requests(40, seed=1), 3, told)
    assert told.heard == [], "nothing is done before the first answer is asked for"
    next(answers)
    assert len(told.heard) > 3
    assert all(finished > 0 == under_way for finished, under_way in told.heard)
    list(answers)
    assert told.finished == 40


def test_answers_are_told_of_when_they_end_and_begun_when_their_prompt_is_read(backend: TransformersBackend) -> None:
    prompts = [request.token_ids[:90].tolist() for request in random_requests(12, seed=6)]
    told = News()
    list(backend.generate(prompts, 4, [], Sampling(1.0, 7, 2), told))
    assert told.heard[0][1] > 0, "a prompt that is read is an answer begun"
    assert told.heard[-1][1] == 0
    assert told.finished == 24


def test_whole_vocabulary_sums_to_one(backend: TransformersBackend) -> None:
    (answer,) = backend.score(random_requests(1, seed=2), backend.vocab_size)
    np.testing.assert_allclose(np.exp(answer.logprobs.astype(np.float64)).sum(-1), 1.0, atol=1e-5)
    assert (np.sort(answer.ids, axis=-1) == np.arange(backend.vocab_size)).all()


def test_answers_depend_on_the_call_alone(backend: TransformersBackend) -> None:
    requests = random_requests(20, seed=3)
    first = list(backend.score(requests, 5))
    list(backend.score(random_requests(10, seed=4), 5))
    for before, after in zip(first, backend.score(requests, 5), strict=True):
        np.testing.assert_array_equal(before.logprobs, after.logprobs)


def test_ties_go_to_the_lower_id(tiny_model: Path, tmp_path: Path) -> None:
    model = Qwen2ForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.model.norm.weight.zero_()  # every token is equally likely everywhere
    model.save_pretrained(tmp_path)
    engine = TransformersBackend(tmp_path, dtype="auto", device="cpu", batch_tokens=600, max_length=512, verbose=False)
    (answer,) = engine.score(random_requests(1, seed=5), 4)
    engine.close()
    np.testing.assert_array_equal(answer.ids, np.broadcast_to(np.arange(4), answer.ids.shape))


@torch.no_grad()
def _greedy(model: Qwen2ForCausalLM, prompt: list[int], max_new_tokens: int, stop_ids: list[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(max_new_tokens):
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in stop_ids:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_generate_agrees_with_the_reference(backend: TransformersBackend, model: Qwen2ForCausalLM) -> None:
    prompts = [request.token_ids[:90].tolist() for request in random_requests(12, seed=6)]
    free = list(backend.generate(prompts, 12, []))
    assert free == [_greedy(model, prompt, 12, []) for prompt in prompts]
    stop_ids = [free[0][3], free[1][0]]
    assert list(backend.generate(prompts, 12, stop_ids)) == [_greedy(model, prompt, 12, stop_ids) for prompt in prompts]


def test_generate_stops_at_the_models_length(backend: TransformersBackend, model: Qwen2ForCausalLM) -> None:
    long, short = [5] * 509, [6] * 20
    answers = list(backend.generate([long, short], 8, []))
    assert answers == [_greedy(model, long, 3, []), _greedy(model, short, 8, [])]


@pytest.mark.parametrize(
    ("token_ids", "start", "top_k", "message"),
    [
        ([5, 6, 7], 1, 0, "K = 0 is outside"),
        ([5, 6, 7], 1, 436, r"K = 436 is outside 1 to 435"),
        ([5] * 513, 1, 5, "513 tokens is longer than the model takes"),
        ([5, 435], 1, 5, "token ids run from 5 to 435"),
        ([5, -1], 1, 5, "token ids run from -1 to 5"),
        ([], 1, 5, "empty sequence"),
        ([5, 6], 2, 5, "nothing to score"),
        ([5, 6], 0, 5, "nothing to score"),
    ],
)
def test_bad_score_requests_are_refused_at_once(
    backend: TransformersBackend, token_ids: list[int], start: int, top_k: int, message: str
) -> None:
    with pytest.raises(KidpipeError, match=message):
        backend.score([ScoreRequest(np.array(token_ids, dtype=np.int32), start)], top_k)


def test_bad_prompts_are_refused_at_once(backend: TransformersBackend) -> None:
    with pytest.raises(KidpipeError, match="empty sequence"):
        backend.generate([[]], 5, [])
    with pytest.raises(KidpipeError, match="leaves no room to generate"):
        backend.generate([[5] * 512], 5, [])
    with pytest.raises(KidpipeError, match="0 new tokens"):
        backend.generate([[5]], 0, [])


def test_nothing_asked_nothing_answered(backend: TransformersBackend) -> None:
    assert list(backend.score([], 5)) == []
    assert list(backend.generate([], 5, [])) == []


def test_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}', encoding="utf-8")
    with pytest.raises(KidpipeError, match="transformers cannot load the model"):
        TransformersBackend(tmp_path, dtype="auto", device="cpu", batch_tokens=64, max_length=64, verbose=False)


def test_missing_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = Qwen2ForCausalLM.from_pretrained(tiny_model)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(KidpipeError, match=r"weights of 1 parameters are missing, model.layers.1.mlp.up_proj"):
        TransformersBackend(tmp_path, dtype="auto", device="cpu", batch_tokens=64, max_length=64, verbose=False)


def test_cuda_that_is_not_there_is_refused(tiny_model: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(KidpipeError, match="no CUDA device"):
        TransformersBackend(tiny_model, dtype="auto", device="cuda", batch_tokens=64, max_length=64, verbose=False)


def test_samples_are_decided_by_seed_and_prompt_alone(backend: TransformersBackend) -> None:
    prompts = [request.token_ids.tolist() for request in random_requests(9, seed=21)]
    drawn = list(backend.generate(prompts, 8, [], Sampling(1.0, 7, 3)))
    assert len(drawn) == 27
    assert list(backend.generate(prompts, 8, [], Sampling(1.0, 7, 3))) == drawn
    assert list(backend.generate(prompts[::-1], 8, [], Sampling(1.0, 7, 1))) == drawn[::3][::-1]
    assert list(backend.generate(prompts, 8, [], Sampling(1.0, 8, 3))) != drawn
    assert len(set(map(tuple, drawn[:3]))) > 1
    greedy = list(backend.generate(prompts, 8, []))
    assert list(backend.generate(prompts, 8, [], Sampling(1e-4, 7))) == greedy


@pytest.mark.slow
def test_samples_follow_the_models_distribution(backend: TransformersBackend, model: Qwen2ForCausalLM) -> None:
    prompt = random_requests(1, seed=22)[0].token_ids.tolist()
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([prompt])).logits[0, -1] / 0.5, -1).numpy()
    number = 3000
    drawn = [answer[0] for answer in backend.generate([prompt], 1, [], Sampling(0.5, 0, number))]
    seen = np.bincount(drawn, minlength=len(expected)) / number
    # Four standard errors at each of the likeliest ten.
    for token in np.argsort(-expected)[:10]:
        assert abs(seen[token] - expected[token]) < 4 * np.sqrt(expected[token] * (1 - expected[token]) / number) + 1e-3


def test_samples_that_cannot_be_drawn_are_refused(backend: TransformersBackend) -> None:
    with pytest.raises(KidpipeError, match="temperature 0"):
        backend.generate([[5]], 1, [], Sampling(0.0, 0))
