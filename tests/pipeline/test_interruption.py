"""kill -9 at random moments: the rerun ends with the same bytes, and no finished shard is made twice."""

import random
import shutil
import time
from pathlib import Path

import pytest

from kidcore.store.store import Store
from tests.conftest import configure
from tests.forks import start
from tests.pipeline.running import run_build

KILLS = 20


def work(settings: dict[str, object]) -> None:
    run_build(configure(settings))


def contents(store: Store) -> dict[str, tuple[int, int]]:
    """Finished shards by name, with what changes when one is written again."""
    return {str(p.relative_to(store.root)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in store.root.glob("*/*.parquet")}


@pytest.mark.slow
def test_a_build_killed_at_twenty_random_moments(settings: dict[str, object], tmp_path: Path) -> None:
    settings |= {"data.limit": 30, "ingest.shard_rows": 6, "mask.views": 2}
    expected, lasts = whole_build(settings, tmp_path)
    store = Store(Path(str(settings["store.path"])))
    rng = random.Random(5)
    kills = 0
    while kills < KILLS:
        before = contents(store)
        with start(work, settings) as build:
            time.sleep(rng.uniform(0.05, 0.4) * lasts)
            is_killed = build.poll() is None
        assert before.items() <= contents(store).items(), "a finished shard was lost or made twice"
        if is_killed:
            kills += 1
        else:
            assert_equal_stores(store, expected)
            shutil.rmtree(store.root)
    work(settings)
    assert_equal_stores(store, expected)


def whole_build(settings: dict[str, object], tmp_path: Path) -> tuple[Store, float]:
    """An uninterrupted build, and how long one takes once the server of forks is warm."""
    for name in ("cold", "warm"):
        started = time.perf_counter()
        with start(work, settings | {"store.path": str(tmp_path / name)}) as build:
            assert build.wait() == 0, build.err
    return Store(tmp_path / "warm"), time.perf_counter() - started


def assert_equal_stores(store: Store, expected: Store) -> None:
    assert (store.root / "manifest.json").read_bytes() == (expected.root / "manifest.json").read_bytes()
    names = {path.relative_to(expected.root) for path in expected.root.glob("*/*.parquet")}
    assert {path.relative_to(store.root) for path in store.root.glob("*/*.parquet")} == names
    assert all((store.root / name).read_bytes() == (expected.root / name).read_bytes() for name in names)
    assert not list(store.root.glob("*/.tmp-*")), "nothing unfinished is left"


def test_a_truncated_shard_is_made_again_and_nothing_else(settings: dict[str, object]) -> None:
    config = configure(settings)
    first = run_build(config)
    store = Store(Path(config.store.path))
    victim = sorted(store.root.glob("predict/*.parquet"))[2]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    second = run_build(config)
    assert {stage: count for stage, count in second.ran.items() if count} == {"predict": 1}
    assert victim.read_bytes() == whole
    assert second.manifest == first.manifest
