"""Numbers of kills in; what came of builds on Ray whose workers, or whose driver, were killed at random moments, out.

    python -m tests.pipeline.workers.kills --workers 20 --drivers 10 --engines 2 --seed 0

Real builds with a small model on a cluster of this machine. Held against a build in one process that nobody disturbed: the
manifest and every shard are the same bytes, what was finished at the death of a driver is untouched, nothing unfinished is
left, and at most one shard a kill is in the log of shards twice.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kidcore.config.config import DataSettings
from kidcore.store.log import shard_records
from kidcore.store.store import Store
from kidpipe.demo.recipe import ModelSize
from kidpipe.demo.setup import make_models
from kidpipe.demo.world import make_world
from pipeline.workers.cluster import connect
from tests.conftest import configure
from tests.forks import start
from tests.pipeline.running import build_with, run_build
from tests.pipeline.test_interruption import contents
from tests.pipeline.workers.test_parallel import worker_of

SETTINGS: dict[str, object] = {
    "engine.backend": "transformers",
    "engine.device": "cpu",
    "teacher.dtype": "float32",
    "ingest.shard_rows": 5,
    "mask.views": 2,
    "score.top_k": 8,
}
_MOST_A_BUILD = 4
"""Kills in one build: the third that hits the same shard would rightly stop it."""


@dataclass(frozen=True)
class Round:
    """A build and its kills, and what was wrong afterwards (nothing, one hopes)."""

    kind: str
    kills: int
    twice: int
    """Shards that the log has twice."""
    faults: tuple[str, ...]


class World:
    """Data, a model and the store of an undisturbed build, in a folder of their own."""

    def __init__(self, root: Path, address: str, engines: int) -> None:
        self._root, self._address, self._engines = root, address, engines
        make_world(root / "data", num_train=60, num_dev=4, seed=5)
        size = ModelSize(hidden_size=32, layers=1, heads=1, kv_heads=1, intermediate=32)
        make_models(DataSettings(path=str(root / "data")), {root / "model": size}, vocab_size=320, max_length=512, seed=0)
        self._expected = self.store("expected")
        run_build(configure(self.settings(self._expected)))

    def store(self, name: str) -> Store:
        return Store(self._root / "stores" / name)

    def settings(self, store: Store, **more: object) -> dict[str, object]:
        model = str(self._root / "model")
        named = {"data.path": self._root / "data", "teacher.model": model, "train.student": model, "store.path": store.root}
        return SETTINGS | {name: str(value) for name, value in named.items()} | more

    def on_ray(self, store: Store, engines: int | None = None) -> dict[str, object]:
        return self.settings(store, **{"engine.workers": engines or self._engines, "engine.ray": self._address})

    def faults(self, store: Store) -> list[str]:
        store.remove_temporaries()  # workers of a killed driver may have died after the next one had begun
        ours, theirs = files(store), files(self._expected)
        found = [f"not as undisturbed: {name}" for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]
        return found + [f"left over: {path}" for path in store.root.glob("*/.tmp-*")]


def files(store: Store) -> dict[str, bytes]:
    """Shards and manifest by name."""
    return {path.name: path.read_bytes() for path in [*store.root.glob("*/*.parquet"), store.root / "manifest.json"]}


def twice(store: Store) -> int:
    return sum(count - 1 for count in Counter(record["key"] for record in shard_records(store.root)).values())


def kill_workers(world: World, rng: random.Random, most: int) -> Round:
    """One build, in which up to `most` workers that have made something are killed, at moments of their own."""
    store, over, killed = world.store(f"workers-{rng.random()}"), threading.Event(), set[int]()

    def kill() -> None:
        while len(killed) < most and not over.wait(rng.uniform(0.05, 2.0)):
            there = sorted({worker_of(record) for record in shard_records(store.root)} - killed)
            if there:
                killed.add(victim := rng.choice(there))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_build(configure(world.on_ray(store)))
    finally:
        over.set()
        killer.join()
    return _judged("a worker", world, store, len(killed), [])


def kill_driver(world: World, rng: random.Random) -> Round:
    """A build whose driver is killed once something is finished, and one that finishes it, with other engines or without Ray."""
    store = world.store(f"driver-{rng.random()}")
    moment = rng.uniform(0.0, 3.0)
    with start(build_with, world.on_ray(store)) as driver:
        while not shard_records(store.root) and driver.poll() is None:
            threading.Event().wait(0.05)
        threading.Event().wait(moment)
        is_killed = driver.poll() is None
        driver.kill()
    before = contents(store)
    engines = rng.choice([0, 1, 2])
    build_with(world.on_ray(store, engines) if engines else world.settings(store))
    touched = [f"made again: {name}" for name in before.items() - contents(store).items()]
    return _judged("the driver", world, store, int(is_killed), touched)


def _judged(kind: str, world: World, store: Store, kills: int, faults: list[str]) -> Round:
    again = twice(store)
    found = faults + world.faults(store) + ([f"{again} shards twice, {kills} kills"] if again > kills else [])
    shutil.rmtree(store.root)
    return Round(kind, kills, again, tuple(found))


def rounds(world: World, workers: int, drivers: int, seed: int) -> Iterator[Round]:
    rng = random.Random(seed)
    for kind, wanted in (("a worker", workers), ("the driver", drivers)):
        made = 0
        while made < wanted:
            found = kill_workers(world, rng, min(_MOST_A_BUILD, wanted - made)) if kind == "a worker" else kill_driver(world, rng)
            made += found.kills
            yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=20, help="kills of a worker")
    parser.add_argument("--drivers", type=int, default=10, help="kills of the driver")
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = connect("", verbose=False)
    import ray

    found: list[Round] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), ray.get_runtime_context().gcs_address, given.engines)
            for one in rounds(world, given.workers, given.drivers, given.seed):
                found.append(one)
                said = "; ".join(one.faults) or "as undisturbed"
                print(f"{one.kind}, {one.kills} kills, {one.twice} shards twice: {said}", flush=True)
    finally:
        cluster.close()
    for kind in dict.fromkeys(one.kind for one in found):
        some = [one for one in found if one.kind == kind]
        kills, well = sum(one.kills for one in some), sum(not one.faults for one in some)
        print(f"{kind}: {kills} kills in {len(some)} builds of {given.engines} engines, {well} as undisturbed")


if __name__ == "__main__":
    main()
