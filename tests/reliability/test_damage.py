"""25 kinds of damage to a store and its runs: the same command repairs them, or says in one message what is wrong and where.

The store is a copy of the fixture's: finished shards and runs, made by the reference engine.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kidcore.errors import KidpipeError
from kidpipe.commands.build import build_imperfect, plan
from kidpipe.commands.gc import gc
from kidpipe.commands.session import Session, open_session
from kidpipe.commands.store import status, verify
from kidpipe.commands.train import train
from tests.test_fixture_store import FIXTURE, copied_store


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    return copied_store(FIXTURE, tmp_path) | {"train.method": "sft"}


@pytest.fixture
def store(settings: dict[str, object]) -> Path:
    return Path(str(settings["store.path"]))


@pytest.fixture
def session(settings: dict[str, object]) -> Session:
    return open_session(None, [], settings, use_file=False)


def shard(store: Path, stage: str = "mask") -> Path:
    return sorted((store / stage).glob("*.parquet"))[0]


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


LOG = "log/shards.jsonl"
RUN = next(path.name for path in (FIXTURE / "artifacts" / "runs").iterdir() if path.name.startswith("sft"))
DEAD = json.dumps({"owner": {"host": "HOST", "pid": 999999, "started": 5}, "token": "t", "beats": 3})

# What is done to the store, by name; afterwards a build gives the same shards and the same manifest.
REPAIRED: dict[str, Callable[[Path], object]] = {
    "log torn within its last line": lambda s: cut(s / LOG, 0.97),
    "log ends in zeros": lambda s: append(s / LOG, b"\0" * 512),
    "log holds bytes that are no text": lambda s: append(s / LOG, b"\xff\xfe{"),
    "log is gone": lambda s: (s / LOG).unlink(),
    "shard cut short": lambda s: cut(shard(s)),
    "shard empty": lambda s: cut(shard(s), 0),
    "shard gone": lambda s: shard(s).unlink(),
    "a whole stage gone": lambda s: shutil.rmtree(s / "mask"),
    "manifest gone": lambda s: (s / "manifest.json").unlink(),
    "head gone": lambda s: (s / "head.json").unlink(),
    "kept manifests gone": lambda s: shutil.rmtree(s / "manifests"),
    "settings gone": lambda s: shutil.rmtree(s / "settings"),
    "tokenizer gone": lambda s: shutil.rmtree(s / "tokenizers"),
    "digests are no JSON": lambda s: write(s / "digests.json", "{"),
    "counts are no JSON": lambda s: write(s / "counts.json", "\0\0"),
    "foreign Parquet file in a stage": lambda s: write(s / "mask" / "x.parquet"),
    "foreign file that looks nearly like a shard": lambda s: write(s / "mask" / "a.1.b.parquet"),
    "foreign folder in a stage": lambda s: write(s / "mask" / "mine" / "notes.txt"),
    "foreign folder in the store": lambda s: write(s / "mine" / "x.1.y.parquet"),
    "temporary file of a dead writer": lambda s: write(s / "mask" / ".tmp-1-abc"),
    "lock text of a build that was killed": lambda s: write(s / "build.lock", DEAD),
    "clock set back: files from the future": lambda s: [os.utime(path, (4e9, 4e9)) for path in s.rglob("*")],
    "clock set back: files from 1970": lambda s: [os.utime(path, (0, 0)) for path in s.rglob("*")],
}


def shards(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.glob("*/*.parquet") if len(path.name) > 70}


@pytest.mark.parametrize("damage", REPAIRED.values(), ids=REPAIRED)
def test_a_build_repairs_it_and_other_commands_live_with_it(
    damage: Callable[[Path], object], session: Session, store: Path
) -> None:
    before, digest = shards(store), json.loads((store / "manifest.json").read_text())["digest"]
    damage(store)
    foreign = {
        path
        for path in store.rglob("*")
        if path.is_file() and path.name in ("x.parquet", "a.1.b.parquet", "notes.txt", "x.1.y.parquet")
    }
    plan(session, why=True, as_json=True, check=False, until="score")
    status(session, as_json=True)
    build_imperfect(session, until="score", as_json=True)
    assert json.loads((store / "manifest.json").read_text())["digest"] == digest
    assert shards(store) == before
    status(session, as_json=True)
    gc(session, delete=True, as_json=True)
    verify(session, deep=True, as_json=True)
    assert shards(store) == before
    assert all(path.exists() for path in foreign)


# What is done, the command that meets it, and what it says; it is a message, and nothing is deleted.
NAMED: dict[str, tuple[Callable[[Path], object], Callable[[Session], object], str]] = {
    "a flipped byte": (lambda s: flip(shard(s, "score")), lambda s: verify(s, deep=True, as_json=True), "broken shards"),
    "manifest is no JSON": (
        lambda s: cut(s / "manifest.json"),
        lambda s: plan(s, why=True, as_json=True, check=False, until="score"),
        "not readable",
    ),
    "manifest lacks what it needs": (
        lambda s: write(s / "manifest.json", "{}"),
        lambda s: plan(s, why=True, as_json=True, check=False, until="score"),
        "manifest",
    ),
    "manifest of a newer kidpipe": (
        lambda s: write(s / "manifest.json", '{"schema_version": 99}'),
        lambda s: build_imperfect(s, until="score", as_json=True),
        "schema version 99",
    ),
    "head is no JSON": (lambda s: write(s / "head.json", "{"), lambda s: status(s, as_json=True), "not readable"),
    "what a run was trained on is unreadable": (
        lambda s: [cut(p) for p in s.glob("runs/*/manifest.json")],
        lambda s: gc(s, delete=True, as_json=True),
        "nothing is deleted",
    ),
    "run.json is a list": (
        lambda s: write(s / "runs" / RUN / "run.json", "[1]"),
        lambda s: train(s, name=RUN, as_json=True),
        "run.json",
    ),
    "run.json is no JSON": (
        lambda s: [write(p, "{") for p in s.glob("runs/*/run.json")],
        lambda s: train(s, name=RUN, as_json=True),
        "run.json",
    ),
    "a shard that training reads is cut short": (
        lambda s: cut(shard(s, "ingest")),
        lambda s: train(s, name="new", as_json=True),
        "ingest/",
    ),
}


@pytest.mark.parametrize(("damage", "meets", "says"), NAMED.values(), ids=NAMED)
def test_it_is_named(
    damage: Callable[[Path], object], meets: Callable[[Session], object], says: str, session: Session, store: Path
) -> None:
    damage(store)
    before = shards(store)
    with pytest.raises(KidpipeError) as caught:
        meets(session)
    assert says in str(caught.value)
    assert caught.value.fix
    assert len(shards(store)) >= len(before) - 1, "at most the broken one is set aside"


# What is done to the folder of a run; the same command trains it, or goes on with it, to the same end.
RUNS: dict[str, Callable[[Path], object]] = {
    "a checkpoint half written": lambda run: write(run / "checkpoints" / ".step-00000002.new" / "model.pt"),
    "a student half written": lambda run: write(run / ".best.new" / "model.safetensors"),
    "its log torn": lambda run: cut(run / "log.jsonl", 0.9),
    "its log in zeros": lambda run: append(run / "log.jsonl", b"\0" * 64),
    "the lock of a run that was killed": lambda run: write(run / ".lock", DEAD),
    "a temporary file of a dead writer": lambda run: write(run / ".tmp-1-run.json"),
}


@pytest.mark.parametrize("damage", RUNS.values(), ids=RUNS)
def test_training_goes_on_to_the_same_end(damage: Callable[[Path], object], session: Session, store: Path) -> None:
    run = store / "runs" / RUN
    expected = json.loads((run / "result.json").read_text())["final_nll"]
    (run / "result.json").unlink()
    damage(run)
    result = train(session, name="", as_json=True)
    assert Path(result["run"]) == run
    assert result["final_nll"] == pytest.approx(expected, rel=1e-3)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line.get("kind") == "step"] == [1, 2, 3, 4]
