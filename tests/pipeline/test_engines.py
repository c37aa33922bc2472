"""One engine at a time, kept as long as the same model is asked, and every start of one accounted for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config import Config, EngineSettings
from kidcore.config.digests import FileDigests
from kidcore.config.stage_settings import PredictSettings
from kidcore.errors import KidpipeError
from kidcore.models.sources import UNBOUNDED, ModelSource, Served
from kidcore.models.teachers import is_url, known_length, require_top_k
from pipeline.engines import EnginePool
from pipeline.workers.setup import model_of, threads_asked
from tests.pipeline.bigram import FACTS, Bigram


def served(identity: str, opened: list[Bigram], **refusal: Any) -> ModelSource:
    """A model that is opened as one behind a URL is."""

    def open_it(_model: ModelSource, _engine: EngineSettings, max_length: int) -> Bigram:
        if refusal:
            raise KidpipeError(**refusal)
        opened.append(Bigram(max_length=max_length))
        return opened[-1]

    about = Served(("http://x",), identity, (), 12, 64, 20, "1", open_it)
    return ModelSource(f"name of {identity}", Path(), identity, 64, 12, "", "", about)


@pytest.fixture
def opened() -> list[Bigram]:
    return []


def pool(starting: Any = None) -> EnginePool:
    made = EnginePool(EngineSettings(), 10, 33)
    if starting:
        made.starting = starting
    return made


def test_the_same_model_is_opened_once(opened: list[Bigram]) -> None:
    engines, model = pool(), served("a", opened)
    assert engines.open(model, "auto") is engines.open(model, "auto")
    assert [engine.max_length for engine in opened] == [33]
    again = served("a", opened)
    assert engines.open(again, "auto") is opened[0], "whatever object names it"


def test_another_model_or_precision_takes_its_place(opened: list[Bigram]) -> None:
    engines = pool()
    engines.open(served("a", opened), "auto")
    engines.open(served("b", opened), "auto")
    engines.open(served("b", opened), "bfloat16")
    engines.open(served("a", opened), "auto")
    assert [engine.is_closed for engine in opened] == [True, True, True, False]
    engines.close()
    engines.close()
    assert opened[-1].is_closed
    assert engines.open(served("a", opened), "auto") is opened[4]


def test_what_was_asked_and_how_long_engines_took_to_start_is_noted_until_it_is_taken(opened: list[Bigram]) -> None:
    started: list[str] = []

    @contextmanager
    def starting(what: str) -> Iterator[None]:
        started.append(what)
        yield

    engines = pool(starting)
    assert engines.used is None
    engines.open(served("a", opened), "auto")
    first = engines.start_s
    assert first > 0
    assert engines.used == FACTS
    engines.used = None
    engines.open(served("a", opened), "auto")
    assert (engines.used, engines.start_s) == (FACTS, first), "it was there already"
    engines.open(served("b", opened), "auto")
    assert engines.start_s > first
    assert started == ["the engine with name of a", "the engine with name of b"]


def test_an_engine_that_does_not_start_leaves_nothing_behind(opened: list[Bigram]) -> None:
    engines = pool()
    engines.open(served("a", opened), "auto")
    with pytest.raises(KidpipeError, match="no memory"):
        engines.open(served("b", opened, what="no memory"), "auto")
    assert opened[0].is_closed, "two do not fit"
    engines.close()
    assert engines.open(served("a", opened), "auto") is opened[1]


@pytest.mark.parametrize(
    ("stage", "predict", "model"),
    [
        ("ingest", {}, ""),
        ("mask", {}, ""),
        ("gold_score", {}, "teacher"),
        ("predict", {}, "teacher"),
        ("predict", {"predictor": "student"}, "predictor"),
        ("predict", {"fill": "verify"}, "predictor"),
        ("verify", {"fill": "verify"}, "teacher"),
        ("rollout", {}, "start"),
        ("rollout_score", {}, "teacher"),
    ],
)
def test_the_model_that_a_stage_asks(stage: str, predict: dict[str, Any], model: str) -> None:
    assert model_of(Config(predict=PredictSettings(**predict)), stage) == model


@pytest.mark.parametrize(("said", "threads"), [("4", 4), ("", 0), ("4,2", 0), ("x", 0), ("-1", 0), ("²", 0), (None, 0)])
def test_threads_are_what_the_environment_says_in_digits(monkeypatch: pytest.MonkeyPatch, said: str | None, threads: int) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_asked() == threads


@pytest.mark.parametrize(
    ("model", "is_one"),
    [("http://h:8000", True), (" HTTPS://h", True), ("Qwen/Qwen2.5", False), ("./http", False), ("httpd", False), ("", False)],
)
def test_a_url_is_one_by_its_scheme(model: str, is_one: bool) -> None:
    assert is_url(model) is is_one


def test_more_scores_than_a_server_gives_are_refused_with_what_to_start_it_with(opened: list[Bigram]) -> None:
    model = served("a", opened)
    require_top_k(model, 20)
    with pytest.raises(KidpipeError, match="K = 21 is more than the 20") as caught:
        require_top_k(model, 21)
    assert "--max-logprobs 29" in caught.value.fix
    require_top_k(ModelSource("m", Path(), "local:1", 9, 9, "", ""), 10_000)


def test_a_length_is_known_once_the_servers_were_asked() -> None:
    assert known_length("http://h", FileDigests(None)) == UNBOUNDED
