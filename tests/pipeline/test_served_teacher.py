"""A build whose teacher is behind a URL: what a build with the model itself makes, and noticed when the model changes."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from kidcore.config.config import Config
from kidcore.errors import KidpipeError
from kidcore.store.arrow import lists
from kidcore.store.manifest import Manifest
from tests.conftest import configure
from tests.pipeline.running import files, made, run_build, store_of
from tests.pipeline.test_predict_and_score import shard_of
from tests.serving import ModelServer, hang_up, status


@pytest.fixture
def server(tiny_model: Path) -> Iterator[ModelServer]:
    server = ModelServer(tiny_model)
    yield server
    server.stop()


@pytest.fixture
def small(settings: dict[str, object]) -> dict[str, object]:
    return settings | {"data.limit": 12, "ingest.shard_rows": 5, "mask.views": 1}


def behind(server: ModelServer, settings: dict[str, object]) -> dict[str, object]:
    return settings | {
        "teacher.model": server.url,
        "teacher.tokenizer": settings["train.student"],
        "engine.server_patience_s": 30,
    }


def assert_same_scores(
    stage: str,
    ours: tuple[Config, Manifest],
    theirs: tuple[Config, Manifest],
    exactly: tuple[str, ...] = ("prompt_ids", "gold_ids"),
) -> None:
    """The same rows in two builds: the columns `exactly`, and log-probabilities within 2e-4."""
    for our, their in zip(files(ours[1], stage), files(theirs[1], stage), strict=True):
        table, other = store_of(ours[0]).read(shard_of(our)), store_of(theirs[0]).read(shard_of(their))
        for name in exactly:
            assert table.column(name).equals(other.column(name))
        for row, expected in zip(lists(table, "actual_logprob"), lists(other, "actual_logprob"), strict=True):
            np.testing.assert_allclose(row, expected, atol=2e-4)


@pytest.mark.slow(seconds=14)
def test_a_build_is_that_of_the_model_itself_through_trouble(
    server: ModelServer, small: dict[str, object], tmp_path: Path
) -> None:
    own = run_build(configure(small, store__path=str(tmp_path / "own")))
    config = configure(behind(server, small))
    server.troubles.extend([status(503), status(429)])
    first = run_build(config, "gold_score")
    server.troubles.extend([hang_up, status(500)])
    rest = run_build(config)
    assert "gold_score" not in made(rest)
    assert not made(run_build(config))
    assert first.manifest.counts["gold_score"] == own.manifest.counts["gold_score"]
    for stage in ("gold_score", "score"):
        undisturbed = configure(small, store__path=str(tmp_path / "own")), own.manifest
        assert_same_scores(stage, (config, rest.manifest), undisturbed, exactly=("prompt_ids", "gold_ids", "topk_count"))
    answers = run_build(config, "generate").manifest.counts["generate"]
    own_answers = run_build(configure(small, store__path=str(tmp_path / "own")), "generate").manifest.counts["generate"]
    assert answers == own_answers


@pytest.mark.slow
def test_another_model_at_the_same_url_makes_its_own_shards(
    server: ModelServer, small: dict[str, object], tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configure(behind(server, small))
    first = run_build(config, "gold_score")
    assert not made(run_build(config, "gold_score"))
    server.stop()
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.nn.init.normal_(model.model.layers[1].mlp.down_proj.weight, std=0.5)
    model.save_pretrained(tmp_path / "other")
    with caplog.at_level(logging.WARNING, logger="kidcore"):
        changed = ModelServer(tmp_path / "other")
        second = run_build(configure(behind(changed, small)), "gold_score")
        changed.stop()
        server.start()
    assert made(second) == {"gold_score": made(first)["gold_score"]}
    assert "another model than before answers under the name teacher" in caplog.text


def test_more_scores_than_the_server_gives_are_refused_before_any_shard(small: dict[str, object], tiny_model: Path) -> None:
    server = ModelServer(tiny_model, max_logprobs=10)
    config = configure(behind(server, small))
    with pytest.raises(KidpipeError, match=r"more than the 10 log-probabilities[\s\S]*--max-logprobs"):
        run_build(config)
    server.stop()
    assert not list(store_of(config).root.glob("*/*.parquet"))
