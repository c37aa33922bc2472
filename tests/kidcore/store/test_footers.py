"""Counts are remembered by a shard's name and size, and read again where either is another."""

from pathlib import Path

import pyarrow as pa
import pytest

from kidcore.store.footers import COUNTS, FooterCounts
from kidcore.store.store import DamagedShard, Store

COUNTED = {"in": 3, "out": 2, "set_aside": {"too long": 1}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_shard_is_opened_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = store.commit("mask", "1" * 32, pa.table({"x": [1, 2, 3]}), COUNTED)
    first = FooterCounts(store)
    assert first.of(shard) == COUNTED
    first.of(shard).clear()
    first.save()
    monkeypatch.setattr(Store, "counts", lambda *_: pytest.fail("it was opened"))
    assert FooterCounts(store).of(shard) == COUNTED


def test_a_shard_cut_short_or_gone_is_noticed(store: Store) -> None:
    shard = store.commit("mask", "1" * 32, pa.table({"x": [1, 2, 3]}), COUNTED)
    footers = FooterCounts(store)
    footers.of(shard)
    footers.save()
    path = store.path(shard)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedShard):
        FooterCounts(store).of(shard)
    path.unlink()
    with pytest.raises(DamagedShard):
        FooterCounts(store).of(shard)
    store.set_aside(shard)


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', "\0"])
def test_a_damaged_memory_is_an_empty_one(store: Store, text: str) -> None:
    shard = store.commit("mask", "1" * 32, pa.table({"x": [1, 2, 3]}), COUNTED)
    (store.root / COUNTS).write_text(text)
    assert FooterCounts(store).of(shard) == COUNTED


def test_what_other_stages_counted_stays(store: Store) -> None:
    shards = [store.commit(stage, "1" * 32, pa.table({"x": [1, 2, 3]}), COUNTED) for stage in ("mask", "score")]
    for shard in shards:
        footers = FooterCounts(store)
        footers.of(shard)
        footers.save()
    assert all(shard.file in (store.root / COUNTS).read_text() for shard in shards)
