"""Numbers of kills in; what came of builds on Ray whose workers, driver or nodes were killed at random moments out.

    python -m tests.pipeline.workers.kills --workers 20 --drivers 10 --nodes 3 --engines 2 --seed 0

Real builds with a small model on a cluster of this machine: its head, and two more nodes where one is to be killed. Held
against a build in one process that nobody disturbed: the manifest and every shard are the same bytes, what was finished at the
death of a driver is untouched, nothing unfinished is left, and at most one shard a kill is in the log of shards twice (for a
node, the shards that its workers held).
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kidcore.config.config import DataSettings
from kidcore.store.log import shard_records
from kidcore.store.store import Store
from kidpipe.demo.recipe import ModelSize
from kidpipe.demo.setup import make_models
from kidpipe.demo.world import make_world
from pipeline.workers.cluster import connect
from pipeline.workers.pool import IN_FLIGHT
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
_MOST_A_BUILD = 2
"""Kills in one build: a third one that hits the same shard would rightly stop it."""


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
        self._root, self._address, self.engines = root, address, engines
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
        return self.settings(store, **{"engine.workers": engines or self.engines, "engine.ray": self._address})

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


def kill_node(world: World, rng: random.Random, nodes: "Nodes") -> Round:
    """A build in which a node with workers that have made something is gone at some moment, and what it had is made elsewhere."""
    store, over, killed = world.store(f"node-{rng.random()}"), threading.Event(), list[int]()

    def kill() -> None:
        while not over.wait(0.1):
            if there := nodes.with_workers({worker_of(record) for record in shard_records(store.root)}):
                over.wait(rng.uniform(0.0, 2.0))
                killed.append(nodes.kill(rng.choice(there)))
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_build(configure(world.on_ray(store)))
    finally:
        over.set()
        killer.join()
        nodes.fill()
    return _judged("a node", world, store, sum(killed), [], most=world.engines * IN_FLIGHT)


class Nodes:
    """A cluster of a head and two nodes, all on this machine, each with processes of its own."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster  # Ray is loaded once its settings are in the environment

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.fill()
        self.address = str(self._cluster.address)

    def fill(self) -> None:
        """Have two nodes beside the head."""
        while len(self._cluster.worker_nodes) < 2:
            self._cluster.add_node(num_cpus=1)
        self._cluster.wait_for_nodes()

    def with_workers(self, pids: set[int]) -> list[Any]:
        """The nodes, the head left out, on which one of these processes runs: a worker is a child of its node's raylet."""
        parents = {_parent(pid) for pid in pids}
        return [node for node in self._cluster.worker_nodes if _raylet(node) in parents]

    def kill(self, node: Any) -> int:
        """Kill it; how many nodes that were."""
        self._cluster.remove_node(node, allow_graceful=False)
        return 1

    def close(self) -> None:
        self._cluster.shutdown()


def _raylet(node: Any) -> int:
    """Its process."""
    return int(node.all_processes["raylet"][0].process.pid)


def _parent(pid: int) -> int:
    """The process that started it; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _judged(kind: str, world: World, store: Store, kills: int, faults: list[str], most: int = 1) -> Round:
    """`most` are the shards that a kill may make be made twice: a node dies with all its workers."""
    again = twice(store)
    found = faults + world.faults(store) + ([f"{again} shards twice, {kills} kills"] if again > kills * most else [])
    shutil.rmtree(store.root)
    return Round(kind, kills, again, tuple(found))


def rounds(world: World, wanted: Mapping[str, int], seed: int, nodes: Nodes | None) -> Iterator[Round]:
    rng = random.Random(seed)
    for kind, number in wanted.items():
        made = 0
        while made < number:
            if kind == "a worker":
                found = kill_workers(world, rng, min(_MOST_A_BUILD, number - made))
            elif kind == "the driver":
                found = kill_driver(world, rng)
            else:
                assert nodes is not None
                found = kill_node(world, rng, nodes)
            made += found.kills
            yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=20, help="kills of a worker")
    parser.add_argument("--drivers", type=int, default=10, help="kills of the driver")
    parser.add_argument("--nodes", type=int, default=0, help="kills of a node")
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    nodes = Nodes() if given.nodes else None
    cluster = connect(nodes.address if nodes else "", verbose=False)
    import ray

    found: list[Round] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), ray.get_runtime_context().gcs_address, given.engines)
            wanted = {"a worker": given.workers, "the driver": given.drivers, "a node": given.nodes}
            for one in rounds(world, wanted, given.seed, nodes):
                found.append(one)
                said = "; ".join(one.faults) or "as undisturbed"
                print(f"{one.kind}, {one.kills} kills, {one.twice} shards twice: {said}", flush=True)
    finally:
        cluster.close()
        if nodes:
            nodes.close()
    for kind in dict.fromkeys(one.kind for one in found):
        some = [one for one in found if one.kind == kind]
        kills, well = sum(one.kills for one in some), sum(not one.faults for one in some)
        print(f"{kind}: {kills} kills in {len(some)} builds of {given.engines} engines, {well} as undisturbed")


if __name__ == "__main__":
    main()
