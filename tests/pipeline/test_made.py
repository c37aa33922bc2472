"""A build writes down what made its shards, and says where engines mix; no shard or manifest changes by it."""

import json
import logging
from pathlib import Path

import pytest

from kidcore.store.makers import read_summary
from kidcore.version import kidpipe_version
from tests.conftest import configure
from tests.pipeline.running import run_build, store_of


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log" / "shards.jsonl").read_text().splitlines()]


def test_every_shard_is_written_down_with_its_maker(settings: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    config = configure(settings, mask__views=1)
    result = run_build(config)
    store = store_of(config)
    for record in records(store.root):
        made, peak = record["made"], record["peak_memory_mib"]
        assert isinstance(made, dict)
        assert isinstance(peak, float)
        assert 50 < peak < 100_000
        assert made["kidpipe"] == kidpipe_version()
        asked = record["stage"] in ("gold_score", "predict", "score")
        assert (made["engine"] is not None) == asked, record
        if asked:
            assert (made["engine"]["name"], made["engine"]["device"]) == ("transformers", "cpu")
            assert made["engine"]["dtype"] == "float32"
    summary = read_summary(store, result.manifest.digest)
    assert summary["score"][0]["shards"] == len(result.manifest.parts)
    assert "mix engines" not in caplog.text


def test_a_build_by_two_engines_says_so(settings: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    """The older half of the log is rewritten to be another version's: what a store continued after an upgrade holds."""
    config = configure(settings, mask__views=1)
    before = run_build(config)
    store = store_of(config)
    log = store.root / "log" / "shards.jsonl"
    log.write_text(log.read_text().replace('"name": "transformers", "version": "', '"name": "transformers", "version": "older-'))
    digest = {path.name for path in store.root.glob("score/*.parquet")}
    for path in sorted(store.root.glob("score/*.parquet"))[:1]:
        path.unlink()
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        after = run_build(config)
    assert "gold_score and score mix engines: shards 5 by transformers older-" in caplog.text
    assert after.manifest.digest == before.manifest.digest
    assert {path.name for path in store.root.glob("score/*.parquet")} == digest
