"""A teacher behind URLs against the same model in this process: the same numbers, whatever befalls the servers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kidcore.config.config import EngineSettings, TeacherSettings
from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Sampling, ScoreRequest
from kidcore.models.backends.served import ServedBackend
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.served import resolve_served
from tests.kidcore.models.backends.conftest import News, assert_same, random_requests, save_tiny_model
from tests.serving import ModelServer, hang, hang_up, status

pytestmark = pytest.mark.slow(seconds=2)


@pytest.fixture(scope="module")
def servers(tiny_model: Path) -> Iterator[list[ModelServer]]:
    found = [ModelServer(tiny_model) for _ in range(2)]
    yield found
    for server in found:
        server.stop()


def open_served(servers: list[ModelServer], tokenizer: Path, **changes: object) -> ServedBackend:
    settings = TeacherSettings(model=",".join(server.url for server in servers), tokenizer=str(tokenizer))
    source = resolve_served(settings, FileDigests(None))
    engine = {"server_requests": 4, "server_timeout_s": 20.0, "server_patience_s": 20.0} | changes
    return ServedBackend(source, EngineSettings.model_validate(engine), max_length=512)


@pytest.mark.parametrize("way", ["whole", "by position"])
def test_scores_are_those_of_the_model_itself(
    servers: list[ModelServer], tiny_model: Path, reference: TransformersBackend, way: str
) -> None:
    requests = random_requests(12, seed=1, shared=60)
    backend = open_served(servers, tiny_model)
    backend._way = way  # type: ignore[assignment]
    before = [server.kinds.copy() for server in servers]
    told = News()
    answers = list(backend.score(requests, 16, told))
    backend.close()
    assert (told.finished, told.heard[-1][1]) == (12, 0)
    assert 0 < max(under_way for _, under_way in told.heard) <= 8
    assert_same(answers, list(reference.score(requests, 16)))
    for answer in answers:
        assert answer.ids.shape[1] == 16
        assert (np.diff(answer.logprobs, axis=1) <= 0).all()
    kind = "whole" if way == "whole" else "position"
    assert all((server.kinds - old)[kind] for server, old in zip(servers, before, strict=True)), "one did all the work"


def test_answers_are_those_of_the_model_itself(
    servers: list[ModelServer], tiny_model: Path, reference: TransformersBackend
) -> None:
    prompts = [request.token_ids.tolist() for request in random_requests(9, seed=2)]
    free = list(reference.generate(prompts, 8, []))
    stops = [free[0][3], free[1][0]]
    backend = open_served(servers, tiny_model)
    assert list(backend.generate(prompts, 8, [])) == free
    assert list(backend.generate(prompts, 8, stops)) == list(reference.generate(prompts, 8, stops))
    with pytest.raises(KidpipeError, match="samples at temperature"):
        backend.generate(prompts, 8, [], Sampling(0.0, 1))
    backend.close()


def test_no_more_requests_than_asked_are_under_way(servers: list[ModelServer], tiny_model: Path) -> None:
    backend = open_served(servers, tiny_model, server_requests=2)
    for server in servers:
        server.most_under_way = 0
    list(backend.score(random_requests(20, seed=3), 4))
    backend.close()
    assert 2 <= sum(server.most_under_way for server in servers) <= 4


@pytest.mark.parametrize("way", ["whole", "by position"])
def test_trouble_is_waited_out(servers: list[ModelServer], tiny_model: Path, reference: TransformersBackend, way: str) -> None:
    requests = random_requests(10, seed=4)
    backend = open_served(servers, tiny_model, server_timeout_s=1.0)
    backend._way = way  # type: ignore[assignment]
    troubles = [status(429), status(503), hang_up, status(500), hang, status(502)]
    servers[0].troubles.extend(troubles)
    servers[1].troubles.extend([status(500), hang_up])
    answers = list(backend.score(requests, 8))
    backend.close()
    for server in servers:
        server.troubles.clear()
    assert_same(answers, list(reference.score(requests, 8)))


def test_a_server_that_dies_leaves_its_work_to_the_other_and_comes_back(
    servers: list[ModelServer], tiny_model: Path, reference: TransformersBackend
) -> None:
    requests = random_requests(30, seed=5)
    backend = open_served(servers, tiny_model)
    answers = backend.score(requests, 8)
    found = [next(answers)]
    servers[0].stop()
    found += [next(answers) for _ in range(14)]
    servers[0].start()
    found += answers
    backend.close()
    assert_same(found, list(reference.score(requests, 8)))


@pytest.mark.parametrize("way", ["whole", "by position"])
def test_a_server_that_dies_for_good_is_not_waited_for_while_another_one_answers(
    tiny_model: Path, reference: TransformersBackend, way: str
) -> None:
    dying, other = ModelServer(tiny_model), ModelServer(tiny_model)
    requests = random_requests(16, seed=5)
    backend = open_served([dying, other], tiny_model, server_patience_s=1.0)
    backend._way = way  # type: ignore[assignment]
    answers = backend.score(requests, 8)
    found = [next(answers)]
    dying.stop()
    try:
        found += answers
    finally:
        backend.close()
        other.stop()
    assert_same(found, list(reference.score(requests, 8)))


def test_another_model_behind_the_same_url_is_noticed(tiny_model: Path, tmp_path: Path) -> None:
    server, other = (
        ModelServer(tiny_model),
        TransformersBackend(
            save_tiny_model(tmp_path / "other", seed=1),
            dtype="float32",
            device="cpu",
            batch_tokens=4096,
            max_length=512,
            verbose=False,
        ),
    )
    digests = FileDigests(tmp_path / "digests.json")
    settings = TeacherSettings(model=server.url, tokenizer=str(tiny_model))
    first = resolve_served(settings, digests)
    assert resolve_served(settings, FileDigests(tmp_path / "digests.json")).identity == first.identity
    backend = open_served([server], tiny_model)
    own, server.engine = server.engine, other
    server.troubles.append(hang_up)
    with pytest.raises(KidpipeError, match="came back with another model"):
        list(backend.score(random_requests(3, seed=6), 4))
    backend.close()
    second = resolve_served(settings, digests)
    assert second.identity != first.identity
    server.engine = own
    assert resolve_served(settings, digests).identity == first.identity
    server.stop()


def test_servers_of_different_models_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    found = [ModelServer(tiny_model), ModelServer(save_tiny_model(tmp_path, seed=1))]
    with pytest.raises(KidpipeError, match="different models: their scores"):
        open_served(found, tiny_model)
    for server in found:
        server.stop()


def test_a_server_without_token_names_is_asked_for_whole_prompts(tiny_model: Path, reference: TransformersBackend) -> None:
    server = ModelServer(tiny_model, by_position=False)
    backend = open_served([server], tiny_model)
    assert backend._way == "whole"
    requests = random_requests(3, seed=7)
    assert_same(list(backend.score(requests, 4)), list(reference.score(requests, 4)))
    backend.close()
    server.stop()


def test_answers_of_another_form_are_said(servers: list[ModelServer], tiny_model: Path) -> None:
    backend, server = open_served(servers[:1], tiny_model), servers[0]
    settings = TeacherSettings(model=server.url, tokenizer=str(tiny_model))
    asked: dict[str, Callable[[], object]] = {
        "cannot be read": lambda: list(backend.score(random_requests(1, seed=8), 4)),
        "came back as another one": lambda: backend._check(server.url, backend._servers.ask),
        "is no vLLM server": lambda: resolve_served(settings, FileDigests(None)),
    }
    garbage: list[object] = [[], None, {}, {"choices": []}, {"choices": ["x"]}, {"choices": [{"prompt_logprobs": ["x"]}]}]
    for content in garbage:

        def answer(handler: Any, content: object = content) -> bool:
            handler.reply(200, content)
            return True

        for said, ask in asked.items():
            server.troubles.append(answer)
            with pytest.raises(KidpipeError, match=said):
                ask()
    backend.close()


@pytest.mark.slow(seconds=11)
def test_refusals_say_what_to_do(tiny_model: Path) -> None:
    server = ModelServer(tiny_model, max_logprobs=10)
    backend = open_served([server], tiny_model, server_patience_s=1.0)
    with pytest.raises(KidpipeError, match=r"--max-logprobs 24"):
        backend.score(random_requests(1, seed=8), 16)
    server.troubles.extend([status(500)] * 20)
    with pytest.raises(KidpipeError, match=r"(refuses a request \(500\): trouble 500|answers 500, for 1 s now)"):
        list(backend.score([ScoreRequest(np.arange(9, dtype=np.int32), 8)], 4))
    server.troubles.clear()
    server.stop()
    with pytest.raises(KidpipeError, match=r"cannot be reached, for 1 s now[\s\S]*finished shards are kept"):
        list(backend.score(random_requests(1, seed=8), 4))
    backend.close()
    backend.close()
    with pytest.raises(KidpipeError, match=r"cannot be reached[\s\S]*vllm serve"):
        resolve_served(TeacherSettings(model=server.url, tokenizer=str(tiny_model)), FileDigests(None))
    with pytest.raises(KidpipeError, match=r"needs its tokenizer here[\s\S]*teacher\.tokenizer"):
        resolve_served(TeacherSettings(model=server.url), FileDigests(None))
    with pytest.raises(KidpipeError, match="not the URL of a server"):
        resolve_served(TeacherSettings(model="http://,ftp://x", tokenizer=str(tiny_model)), FileDigests(None))
    with pytest.raises(KidpipeError, match="--dtype float32"):
        resolve_served(TeacherSettings(model=server.url, tokenizer=str(tiny_model), dtype="float32"), FileDigests(None))
