"""A number of kills and a seed in; out, as a table and JSON, what came of each when the same command was run again.

    python -m tests.reliability.kills --kills 200 --seed 0 --json kills.json

Every round copies a prepared store, starts one command, kills it with `kill -9` at a random moment of its time, and runs it
again to the end. Held against a run that nobody interrupted: every file that tells no time is the same, what was finished at
the kill is untouched, no shard was made twice, nothing unfinished is left.
"""

import argparse
import contextlib
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kidcore.config.config import DataSettings
from kidpipe.demo.recipe import ModelSize
from kidpipe.demo.setup import make_models
from kidpipe.demo.world import make_world
from tests.forks import command, start
from tests.reliability.traces import cut_short, finished, leftovers, made_twice, outcome, untouched

SETTINGS: dict[str, object] = {
    "engine.backend": "transformers",
    "engine.device": "cpu",
    "ingest.shard_rows": 6,
    "mask.views": 2,
    "score.top_k": 8,
    "train.max_steps": 12,
    "train.batch_size": 4,
    "train.holdout": 0.2,
    "train.save_every": 2,
    "train.eval_every": 4,
    "train.dtype": "float32",
    "eval.limit": 6,
    "eval.max_new_tokens": 8,
    "eval.workers": 1,
}


@dataclass(frozen=True)
class Task:
    """A command, the prepared store it starts from, and how often it is drawn beside the others."""

    name: str
    words: tuple[str, ...]
    state: str
    weight: float


TASKS = (
    Task("build", ("build-imperfect",), "empty", 2),
    Task("build, half of it there", ("build-imperfect",), "half", 2),
    Task("build after a change", ("build-imperfect", "--set", "mask.ratio=0.5"), "built", 2),
    Task("train kid", ("train", "--method", "kid", "--name", "run"), "built", 3),
    Task("train sft", ("train", "--method", "sft", "--name", "run"), "built", 2),
    Task("eval", ("eval", "run"), "trained", 3),
    Task("gc --delete", ("gc", "--delete"), "littered", 3),
    Task("compare", ("compare", "--methods", "sft,kid", "--seeds", "0"), "built", 1),
)
# What leads to each state, from the one before it.
STATES: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...] = (
    ("half", "empty", (("build-imperfect", "--until", "predict"),)),
    ("built", "half", (("build-imperfect",),)),
    ("trained", "built", (("train", "--method", "kid", "--name", "run"),)),
    ("littered", "trained", (("build-imperfect", "--set", "mask.ratio=0.6"), ("build-imperfect",))),
)


@dataclass(frozen=True)
class Round:
    """One kill: after which share of the command's time, and what was wrong afterwards (nothing, one hopes)."""

    task: str
    share: float
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Whole:
    """What the command leaves when nobody interrupts it, and how long it takes."""

    outcome: dict[str, object]
    seconds: float


class World:
    """Data, a model and the prepared stores, in a folder of their own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        make_world(root / "data", num_train=24, num_dev=8, seed=5)
        size = ModelSize(hidden_size=32, layers=1, heads=1, kv_heads=1, intermediate=32)
        make_models(DataSettings(path=str(root / "data")), {root / "model": size}, vocab_size=320, max_length=512, seed=0)
        self._state("empty").mkdir(parents=True)
        for name, before, commands in STATES:
            shutil.copytree(self._state(before), self._state(name))
            for words in commands:
                self.run(words, self._state(name))

    def run(self, words: Sequence[str], folder: Path, kill_after: float | None = None) -> tuple[int | None, str]:
        """The command in `folder`: exit code (None where it was killed) and what it said on standard error."""
        with start(command, *words, *self._flags(), cwd=folder) as process:
            if kill_after is not None:
                time.sleep(kill_after)
                if process.poll() is None:
                    process.kill()
                    return None, process.err
            code = process.wait()
            if kill_after is None and code:
                raise RuntimeError(f"{' '.join(words)} ended with code {code}:\n{process.err}")
            return code, process.err

    def whole(self, task: Task) -> Whole:
        folder = self.copy(task)
        began = time.perf_counter()
        self.run(task.words, folder)
        seconds = time.perf_counter() - began
        found = outcome(folder)
        shutil.rmtree(folder)
        return Whole(found, seconds)

    def copy(self, task: Task) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self._root))
        shutil.copytree(self._state(task.state), folder, dirs_exist_ok=True)
        return folder

    def _state(self, name: str) -> Path:
        return self._root / "states" / name

    def _flags(self) -> list[str]:
        model = str(self._root / "model")
        named = {"data.path": self._root / "data", "teacher.model": model, "train.student": model, "store.path": "artifacts"}
        return [text for name, value in (SETTINGS | named).items() for text in ("--set", f"{name}={value}")]


def kill_once(world: World, task: Task, whole: Whole, share: float) -> Round | None:
    """Kill the command after `share` of its time and run it again; None where it was over by then."""
    folder = world.copy(task)
    code, _ = world.run(task.words, folder, kill_after=share * whole.seconds)
    if code is not None:
        shutil.rmtree(folder)
        return None
    before, cut = finished(folder), cut_short(folder)
    faults = []
    try:
        world.run(task.words, folder)
    except RuntimeError as error:
        faults.append(str(error))
    else:
        found = outcome(folder)
        names = found.keys() | whole.outcome.keys()
        faults += [f"not as uninterrupted: {name}" for name in sorted(names) if found.get(name) != whole.outcome.get(name)]
        faults += [f"done again or lost: {name}" for name in untouched(before, folder, keep=found.keys())]
        faults += [f"made twice: {name}" for name in made_twice(folder, cut)]
        faults += [f"left over: {name}" for name in leftovers(folder)]
    shutil.rmtree(folder)
    return Round(task.name, round(share, 3), tuple(faults))


def run_kills(root: Path, kills: int, seed: int, tasks: Sequence[Task] = TASKS) -> Iterator[Round]:
    """`kills` rounds as they end, each command as often as its weight says."""
    world = World(root)
    whole = {task: world.whole(task) for task in tasks}
    rng = random.Random(seed)
    made = Counter(dict.fromkeys(tasks, 0))
    while made.total() < kills:
        # In turn rather than drawn, so that a small number has every command in it.
        task = min(tasks, key=lambda task: made[task] / task.weight)
        found = kill_once(world, task, whole[task], rng.random())
        if found is not None:
            made[task] += 1
            yield found


def table(rounds: Sequence[Round]) -> str:
    """Markdown: each command, how often it was killed, and how often all was well after the same command again."""
    killed = Counter(found.task for found in rounds)
    well = Counter(found.task for found in rounds if not found.faults)
    lines = ["| killed | times | same bytes, nothing lost, nothing done twice |", "|---|---|---|"]
    lines += [f"| `{name}` | {count} | {well[name]} |" for name, count in killed.items()]
    return "\n".join([*lines, f"| all | {len(rounds)} | {sum(well.values())} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--only", default="", help="commands that begin with this")
    given = parser.parse_args()
    tasks = [task for task in TASKS if task.name.startswith(given.only)]
    rounds: list[Round] = []
    # Ctrl-C ends it with what there is.
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        for found in run_kills(Path(folder), given.kills, given.seed, tasks):
            rounds.append(found)
            said = "; ".join(found.faults) or "as uninterrupted"
            print(f"{len(rounds)}/{given.kills}  {found.task} at {found.share:.0%}: {said}", flush=True)
    print(table(rounds))
    if given.json:
        figures = {"kills": len(rounds), "seed": given.seed, "rounds": [asdict(found) for found in rounds]}
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
