"""A build meets damage: each damaged shard is made anew, however many there are, and one that never comes out whole is named."""

from collections import Counter
from pathlib import Path

import pytest

from kidcore.errors import KidpipeError
from kidcore.store.graph import Grid
from kidcore.store.store import DamagedShard, Store
from pipeline.build import _repair
from tests.conftest import configure
from tests.kidcore.store.grids import graph, make_all, parts, states
from tests.pipeline.running import made, run_build


def test_however_many_shards_are_damaged_each_is_made_anew(settings: dict[str, object], tmp_path: Path) -> None:
    config = configure(settings, ingest__shard_rows=4, mask__views=1)
    whole = run_build(config).manifest
    files = [tmp_path / "artifacts" / file for file in whole.files("mask")]
    assert len(files) > 8
    for path in files:
        path.write_bytes(path.read_bytes()[:100])
    again = run_build(config)
    assert made(again) == {"mask": len(files)}
    assert again.manifest.digest == whole.digest


def test_one_that_is_damaged_for_the_third_time_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    grid, repairs = Grid(graph(), parts("a", "b"), store), Counter[tuple[str, str]]()
    first, second = make_all(grid, store)[:2]
    for shard in (first, second, first, second):
        _repair(store, grid, DamagedShard(shard, "torn"), repairs)
        assert "stale" in states(grid)["ingest"]
    with pytest.raises(KidpipeError, match="a shard is damaged as fast as it is made: torn") as caught:
        _repair(store, grid, DamagedShard(first, "torn"), repairs)
    assert caught.value.where == str(store.path(first))
