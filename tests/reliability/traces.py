"""A project folder in; what it holds without its clocks, what in it is finished, and what ought not to be there, out."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kidcore.store.stages import STAGES

CLOCKS = re.compile(r"seconds|memory|per_second")
# Locks, logs of what took how long, and a cache of digests by inode and time.
UNCOMPARED = re.compile(r"(^|/)(\.lock|[^/]*\.lock|digests\.json|log\.txt)$|^artifacts/log/")
Finished = dict[str, tuple[int, int] | bytes]
Line = tuple[str, str, int, int]


def outcome(folder: Path) -> dict[str, Any]:
    """Every file by its path: its content without clocks."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _content(name, path) for name, path in named.items() if not UNCOMPARED.search(name)}


def _content(name: str, path: Path) -> Any:
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet" and not _is_shard(name):
        return _timeless(pq.read_table(path).to_pylist())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if not CLOCKS.search(name)}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def _is_shard(name: str) -> bool:
    return name.startswith("artifacts/") and name.split("/")[1] in STAGES


def finished(folder: Path) -> Finished:
    """What a second run must leave as it is: shards and results, by inode and time; a training log up to its checkpoint."""
    found: Finished = {}
    for path in [*folder.glob("artifacts/*/*.parquet"), *folder.rglob("result.json")]:
        name = path.relative_to(folder).as_posix()
        if _is_shard(name) or path.name == "result.json":
            found[name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    for log in folder.rglob("runs/*/log.jsonl"):
        saved = sorted(log.parent.glob("checkpoints/step-*/progress.json"))
        if saved:
            size = json.loads(saved[-1].read_text(encoding="utf-8"))["log_bytes"]
            found[log.relative_to(folder).as_posix()] = log.read_bytes()[:size]
    return found


def untouched(before: Finished, folder: Path, keep: Collection[str]) -> list[str]:
    """Names of `before` that are another file now, or gone though they are among those to keep."""
    after = finished(folder)
    return [name for name, trace in before.items() if name in keep and not _is_same(trace, name, after, folder)]


def _is_same(trace: tuple[int, int] | bytes, name: str, after: Finished, folder: Path) -> bool:
    if isinstance(trace, bytes):
        return (folder / name).read_bytes().startswith(trace)
    return after.get(name) == trace


def made_twice(folder: Path, cut: Counter[Line] | None = None) -> list[str]:
    """Shards that the log has more than one line of; those lines not counted that `cut_short` gave at the kill."""
    return [f"{stage}/{key}" for (stage, key, _, _), count in (_lines(folder) - (cut or Counter())).items() if count > 1]


def cut_short(folder: Path) -> Counter[Line]:
    """Lines of the log whose shard is not there: one is written just before its shard is put in its place."""
    there = {tuple(path.relative_to(folder / "artifacts").parts) for path in folder.glob("artifacts/*/*.parquet")}
    made = {(stage, name.partition(".")[0]) for stage, name in there}
    return Counter({line: count for line, count in _lines(folder).items() if line[:2] not in made})


def _lines(folder: Path) -> Counter[Line]:
    log = folder / "artifacts" / "log" / "shards.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return Counter((entry["stage"], entry["key"], entry["part"], entry["view"]) for entry in map(json.loads, lines))


def leftovers(folder: Path) -> list[str]:
    """Files with a temporary name."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if ".tmp" in path.name]
