"""Numbers of kills in; what came of builds on Ray whose workers, driver or nodes were killed at random moments out.

    python -m bench.kills --workers 20 --drivers 10 --engines 2,3 --seed 0 --json kills.json

Real commands (`kidpipe build-imperfect --ray ...`) with a small Qwen2 on a cluster of this machine: its head, and two more nodes
where one is to be killed. Held against a build in one process that nobody disturbed: the manifest and every shard are the same
bytes, what was finished at the death of a driver is untouched, nothing unfinished is left, and at most one shard a kill is in the
log twice (for a node, the shards that its workers held).

A worker is any that the build has, for models or for SQL, in its start too. A shard whose worker died three times stops the
build, as it should; that is counted, and the same command is given again, as a person would.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.process_tree import process_tree
from kidcore.config.config import DataSettings
from kidcore.store.log import shard_records
from kidcore.store.store import Store
from kidpipe.demo.recipe import ModelSize
from kidpipe.demo.setup import make_models
from kidpipe.demo.world import make_world
from pipeline.workers.cluster import connect
from pipeline.workers.parallel import MOST_STRIKES
from pipeline.workers.pool import IN_FLIGHT

SETTINGS: dict[str, object] = {
    "engine.backend": "transformers",
    "engine.device": "cpu",
    "teacher.dtype": "float32",
    "ingest.shard_rows": 5,
    "mask.views": 2,
    "score.top_k": 8,
}
_MOST_A_BUILD = 4
_STOPPED = f"a shard failed {MOST_STRIKES} times"
_POLL_S = 0.02


@dataclass
class Round:
    """A build and its kills, and what was wrong afterwards (nothing, one hopes)."""

    kind: str
    engines: int
    kills: int = 0
    commands: int = 0
    """How often the command was given until the build was finished."""
    stops: int = 0
    """Builds that a shard stopped whose worker was killed too often."""
    twice: int = 0
    """Shards that the log has twice."""
    seconds: float = 0.0
    is_equal: bool = False
    """Whether the manifest and all shards are those of the undisturbed build."""
    faults: list[str] = field(default_factory=list)


class World:
    """Data, a model and the store of an undisturbed build, in a folder of their own."""

    def __init__(self, root: Path, address: str) -> None:
        self._root, self._address = root, address
        make_world(root / "data", num_train=60, num_dev=4, seed=5)
        size = ModelSize(hidden_size=32, layers=2, heads=1, kv_heads=1, intermediate=64)
        make_models(DataSettings(path=str(root / "data")), {root / "model": size}, vocab_size=320, max_length=512, seed=0)
        places = {"data.path": "data", "teacher.model": "model", "train.student": "model"}
        settings = SETTINGS | {name: str(root / place) for name, place in places.items()}
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
        (root / "kidpipe.toml").write_text("".join(lines), encoding="utf-8")
        self._expected = self.store("expected")
        self.finish(self._expected, 0, Round("none", 0))
        began = time.perf_counter()
        self.finish(self.store("lasts"), 2, Round("none", 2))
        self.lasts = time.perf_counter() - began
        """Seconds of a command with two engines that nobody disturbs: moments are drawn from them."""

    def store(self, name: str) -> Store:
        return Store(self._root / "stores" / name)

    def start(self, store: Store, engines: int) -> subprocess.Popen[bytes]:
        """The command, with so many engines on Ray; 0 = without Ray."""
        words = ["build-imperfect", "--config", str(self._root / "kidpipe.toml"), "--set", f"store.path={store.root}"]
        words += ["--set", f"engine.workers={engines}", "--ray", self._address] if engines else []
        with (self._root / "said.txt").open("wb") as said:
            return subprocess.Popen([sys.executable, "-m", "kidpipe", *words], stdout=said, stderr=said)

    def finish(self, store: Store, engines: int, found: Round, running: subprocess.Popen[bytes] | None = None) -> None:
        """Give the command (or take the one that runs) until the build is finished, or fails of itself."""
        while True:
            running = running or self.start(store, engines)
            found.commands += 1
            if not running.wait():
                return
            said = (self._root / "said.txt").read_text(errors="replace")
            if _STOPPED not in said:
                raise SystemExit(f"a build failed: {said[-3000:]}")
            found.stops, running = found.stops + 1, None

    def faults(self, store: Store) -> list[str]:
        store.remove_temporaries()  # workers of a killed driver may have died after the next one had begun
        ours, theirs = files(store), files(self._expected)
        found = [f"not as undisturbed: {name}" for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]
        return found + [f"left over: {path}" for path in store.root.glob("*/.tmp-*")]


def files(store: Store) -> dict[str, bytes]:
    """Shards and manifest by name."""
    return {path.name: path.read_bytes() for path in [*store.root.glob("*/*.parquet"), store.root / "manifest.json"]}


def contents(store: Store) -> dict[str, tuple[int, int]]:
    """Finished shards by name, with what changes when one is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in store.root.glob("*/*.parquet")}


def twice(store: Store) -> int:
    return sum(count - 1 for count in Counter(record["key"] for record in shard_records(store.root)).values())


def workers() -> list[int]:
    """The processes of this machine's cluster that are a build's workers: started by us, so nobody else's."""
    found = []
    for pid in process_tree(os.getpid()):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if title.startswith(b"ray::Worker"):
                found.append(pid)
    return found


def kill_workers(world: World, rng: random.Random, engines: int, most: int) -> Round:
    """One build, in which up to `most` workers are killed, at moments of their own."""
    store, found = world.store(f"workers-{rng.random()}"), Round("a worker", engines)
    moments = sorted(rng.uniform(0.0, world.lasts) for _ in range(most))
    began, running = time.perf_counter(), world.start(store, engines)
    while moments and running.poll() is None:
        time.sleep(_POLL_S)
        there = workers()
        if time.perf_counter() - began < moments[0] or not there:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(there), signal.SIGKILL)
            found.kills += 1
            del moments[0]
            # Its end is to be seen before the next victim is drawn: one dead is not to be killed again.
            time.sleep(0.2)
    world.finish(store, engines, found, running)
    return _judged(found, world, store, began)


def kill_driver(world: World, rng: random.Random, engines: int) -> Round:
    """A build whose driver is killed at some moment, and one that finishes it, on Ray or without."""
    store, found = world.store(f"driver-{rng.random()}"), Round("the driver", engines)
    moment, began = rng.uniform(0.0, world.lasts), time.perf_counter()
    running = world.start(store, engines)
    found.commands = 1
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(moment)
    found.kills = int(running.poll() is None)
    running.kill()
    running.wait()
    before = contents(store)
    world.finish(store, rng.choice((0, engines)), found)
    found.faults += [f"made again: {name}" for name in before.items() - contents(store).items()]
    return _judged(found, world, store, began)


def kill_node(world: World, rng: random.Random, engines: int, nodes: "Nodes") -> Round:
    """A build in which a node with workers is gone at some moment, and what it had is made elsewhere."""
    store, found = world.store(f"node-{rng.random()}"), Round("a node", engines)
    moment, began = rng.uniform(0.0, world.lasts), time.perf_counter()
    running = world.start(store, engines)
    while not found.kills and running.poll() is None:
        time.sleep(_POLL_S)
        if time.perf_counter() - began > moment and (there := nodes.with_workers(set(workers()))):
            nodes.kill(rng.choice(there))
            found.kills = 1
    world.finish(store, engines, found, running)
    nodes.fill()
    return _judged(found, world, store, began, most=engines * IN_FLIGHT)


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
        return [node for node in self._cluster.worker_nodes if pids.intersection(process_tree(_raylet(node)))]

    def kill(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


def _raylet(node: Any) -> int:
    """Its process."""
    return int(node.all_processes["raylet"][0].process.pid)


def _judged(found: Round, world: World, store: Store, began: float, most: int = 1) -> Round:
    """`most` are the shards that a kill may make be made twice: a node dies with all its workers."""
    found.seconds, found.twice = round(time.perf_counter() - began, 1), twice(store)
    wrong = world.faults(store)
    found.is_equal, found.faults = not wrong, found.faults + wrong
    if found.twice > found.kills * most:
        found.faults.append(f"{found.twice} shards twice, {found.kills} kills")
    shutil.rmtree(store.root)
    return found


def rounds(kill: Callable[[int, int], Round], engines: Sequence[int], number: int) -> Iterator[Round]:
    """Builds, with each number of engines in turn, until `number` kills are made; `kill` is told how many are left."""
    made = turn = 0
    while made < number:
        found = kill(engines[turn % len(engines)], number - made)
        made, turn = made + found.kills, turn + 1
        yield found


def summary(found: Sequence[Round]) -> dict[str, Any]:
    """Sums of some rounds."""
    sums = {name: sum(getattr(one, name) for one in found) for name in ("kills", "commands", "stops", "twice", "seconds")}
    equal, well = sum(one.is_equal for one in found), sum(not one.faults for one in found)
    return sums | {"builds": len(found), "equal": equal, "without_fault": well, "most_twice": max(one.twice for one in found)}


def measure(world: World, wanted: Mapping[str, int], engines: Sequence[int], seed: int, nodes: Nodes | None) -> Iterator[Round]:
    """All rounds of each kind, as they end."""
    rng = random.Random(seed)

    def kill_a_worker(number: int, left: int) -> Round:
        return kill_workers(world, rng, number, min(rng.randint(1, _MOST_A_BUILD), left))

    def kill_a_node(number: int, _left: int) -> Round:
        assert nodes is not None
        return kill_node(world, rng, number, nodes)

    ways = {
        "a worker": kill_a_worker,
        "the driver": lambda number, _left: kill_driver(world, rng, number),
        "a node": kill_a_node,
    }
    for kind, kill in ways.items():
        for one in rounds(kill, engines, wanted[kind]):
            said = "; ".join(one.faults) or "as undisturbed"
            stops = f", {one.stops} stops" if one.stops else ""
            counted = f"{one.kills} kills{stops}, {one.twice} shards twice, {one.seconds} s"
            print(f"{one.kind}, {one.engines} engines: {counted}: {said}", flush=True)
            yield one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=20, help="kills of a worker")
    parser.add_argument("--drivers", type=int, default=10, help="kills of the driver")
    parser.add_argument("--nodes", type=int, default=0, help="kills of a node")
    parser.add_argument("--engines", default="2,3", help="numbers of engines, with commas between, in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops it leaves no cluster behind
    nodes = Nodes() if given.nodes else None
    cluster = connect(nodes.address if nodes else "", verbose=False)
    import ray

    engines = [int(number) for number in given.engines.split(",")]
    wanted = {"a worker": given.workers, "the driver": given.drivers, "a node": given.nodes}
    found: list[Round] = []
    sums: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), ray.get_runtime_context().gcs_address)
            for one in measure(world, wanted, engines, given.seed, nodes):
                found.append(one)
                kinds = dict.fromkeys(one.kind for one in found)
                sums = {kind: summary([one for one in found if one.kind == kind]) for kind in kinds}
                head = {"seed": given.seed, "engines": engines, "undisturbed_s": round(world.lasts, 1)}
                if given.json:  # after each round: the whole takes long
                    figures = head | {"load": os.getloadavg()[0], "sums": sums, "rounds": [asdict(each) for each in found]}
                    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    finally:
        cluster.close()
        if nodes:
            nodes.close()
    print(json.dumps(sums, indent=1))


if __name__ == "__main__":
    main()
