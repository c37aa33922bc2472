"""`kidpipe gc`: what nothing refers to in, how much it is, what it was made with and what making it again would cost out."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from kidcore.errors import KidpipeError
from kidcore.store.graph import Grid
from kidcore.store.log import shard_records
from kidcore.store.manifest import kept_manifest, read_manifest
from kidcore.store.reachable import behind, found
from kidcore.store.stages import MODEL_STAGES, STAGE_TABLE, STAGES
from kidcore.store.store import BROKEN, Shard, Store
from kidpipe.commands.session import Session, show_bytes, show_seconds
from pipeline.context import open_context
from pipeline.stages import every_stage

STUDY_MANIFESTS = "manifests.json"
"""In the folder of a comparison: the manifests that its runs read, until all of them are finished."""


@dataclass
class _Group:
    """Files of one stage and settings that could go."""

    what: str
    files: int = 0
    bytes: int = 0
    teacher_seconds: float = 0.0
    """What a model took for them, as far as the log of shards knows."""
    paths: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Kept:
    """What must stay."""

    shards: set[str]
    manifests: set[str]
    note: str = ""
    """Why shards stay that nothing names and no build has found yet."""
    unknown: tuple[tuple[str, Path], ...] = ()
    """Manifests that are not kept, with what refers to them: which shards they name cannot be told."""


def gc(session: Session, *, delete: bool, as_json: bool) -> None:
    """What no manifest in use names and the configuration does not reach; deleted only when asked."""
    store = session.store
    # What a build is at would be shown as free, so looking waits for its end too; where nobody can write, there is none.
    with store.lock() if delete or store.is_writable else nullcontext():
        # Before what refers to them: a training run names its manifest first and writes it then, without the store's lock.
        there = list(_ours(store))
        kept = _kept(session)
        groups = _groups(store, [path for path in there if not _is_kept(path, kept)])
        if groups and kept.unknown:
            _refuse(*kept.unknown[0])
        if delete:
            for path in (path for group in groups for path in group.paths):
                path.unlink()
    total_bytes, seconds = sum(group.bytes for group in groups), sum(group.teacher_seconds for group in groups)
    if as_json:
        shown = [{name: value for name, value in asdict(group).items() if name != "paths"} for group in groups]
        total = {"deleted": delete, "bytes": total_bytes, "teacher_seconds": round(seconds, 3)}
        session.print_json(total | {"note": kept.note or None, "groups": shown})
        return
    for group in groups:
        line = f"{group.files:>6} files  {show_bytes(group.bytes):>9}  {_work(group.teacher_seconds):>8}  {group.what}"
        session.console.print(line)
    text = f"{sum(group.files for group in groups)} files, {show_bytes(total_bytes)}"
    text += f", {show_seconds(seconds)} of teacher time to make again" if seconds else ""
    session.console.print(f"deleted {text}" if delete else f"{text} could go: kidpipe gc --delete")
    if kept.note:
        session.console.print(f"note        {kept.note}")


def _work(seconds: float) -> str:
    return show_seconds(seconds) if seconds else ""


def _kept(session: Session) -> _Kept:
    """What the latest manifest, pins, runs and comparisons name, and the teacher's work that the configuration reaches."""
    store = session.store
    latest, referred = read_manifest(store), _referred(store)
    manifests = [latest] if latest else []
    manifests += [manifest for digest in referred if (manifest := kept_manifest(store, digest))]
    named = {file for manifest in manifests for file in manifest.files()}
    digests = {manifest.digest for manifest in manifests}
    unknown = tuple((digest, by) for digest, by in referred.items() if digest not in digests)
    shards = {shard.file: shard for stage in STAGES for shard in store.scan(stage).values()}
    # Only where a model has worked: what runs without one is made again in seconds, and looking costs reading the data.
    if not any(shard.stage in MODEL_STAGES for shard in shards.values() if shard.file not in named):
        return _Kept(named, digests, unknown=unknown)
    try:
        reached, waiting = _reached(session)
    except KidpipeError as error:
        note = f"every shard is kept, as the configuration does not tell what it needs: {error.what}"
        return _Kept(set(shards) | named, digests, note, unknown)
    more = len(waiting - reached - named)
    note = (
        f"{more} shards of a model stay, as what they are made from may come out as it was: build, and gc again" if more else ""
    )
    return _Kept(named | reached | waiting, digests, note, unknown)


def _referred(store: Store) -> dict[str, Path]:
    """Manifests that pins, runs, and comparisons with runs to come refer to, each with a file that does."""
    digests = {path.stem: path for path in (store.root / "pins").glob("*.json")}
    for state in (store.root / "runs").glob("*/manifest.json"):
        digests[_read(state, "digest")] = state
    for path in (store.root / "compare").glob(f"*/{STUDY_MANIFESTS}"):
        digests.update(dict.fromkeys(_read(path), path))
    return digests


def _refuse(digest: str, by: Path) -> NoReturn:
    raise KidpipeError(
        f"this refers to manifest {digest}, which is not kept, so nothing is deleted",
        where=str(by),
        fix="build or train again as then, which writes it anew, or remove what refers to it",
    )


def _read(path: Path, key: str = "") -> Any:
    """What a file says of what it refers to. Raises KidpipeError: where that is unknown, nothing can be said to be free."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return document[key] if key else [str(digest) for digest in document]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise KidpipeError(
            f"what this refers to cannot be read, so nothing is deleted: {error}",
            where=str(path),
            fix="mend that file, or remove the folder that it is in if its run is of no use",
        ) from None


def _reached(session: Session) -> tuple[set[str], set[str]]:
    """What a build under this configuration would find again: a model's work, and what it was made from.

    And apart, a model's work that it may find once it has run.

    Raises KidpipeError where the configuration does not say enough to know.
    """
    context = open_context(session.config, need_teacher=False)
    try:
        grid = Grid(every_stage(context), context.parts, session.store)
        there = {stage.name for stage in grid.stages}
        if context.chat and not context.chat.is_decided:
            raise KidpipeError("ingest.chat = auto is not decided on these questions")
        wanted = {row.name for row in STAGE_TABLE.values() if row.is_wanted(session.config) and session.store.scan(row.name)}
        if wanted - there:
            raise KidpipeError(f"it names no model for {', '.join(x for x in STAGES if x in wanted - there)}")
        return found(grid), behind(grid, session.store)
    finally:
        context.close()


def _groups(store: Store, candidates: list[Path]) -> list[_Group]:
    settings, seconds = _from_log(store)
    groups: dict[str, _Group] = defaultdict(lambda: _Group(""))
    for path in candidates:
        key = path.name.partition(".")[0]
        what = f"{path.parent.name}: {settings.get(key, 'settings not recorded')}"
        group = groups[what]
        group.what, group.files, group.bytes = what, group.files + 1, group.bytes + path.stat().st_size
        if path.parent.name in MODEL_STAGES:
            group.teacher_seconds = round(group.teacher_seconds + seconds.get(key, 0.0), 3)
        group.paths.append(path)
    return [groups[what] for what in sorted(groups)]


def _ours(store: Store) -> Iterator[Path]:
    """Shards, those set aside as broken, and manifests; files that we did not write are not ours."""
    for stage in STAGES:
        for path in sorted((store.root / stage).glob("*.parquet*")):
            if Shard.parse(stage, path.name.removesuffix(BROKEN)) is not None:
                yield path
    yield from sorted((store.root / "manifests").glob("*.json"))


def _is_kept(path: Path, kept: _Kept) -> bool:
    """Whether something refers to a shard or a manifest."""
    folder = path.parent.name
    return path.stem in kept.manifests if folder == "manifests" else f"{folder}/{path.name}" in kept.shards


def _from_log(store: Store) -> tuple[dict[str, str], dict[str, float]]:
    """What each logged shard was made with, as text, and how long it took, seconds."""
    texts: dict[str, str] = {}
    settings: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for record in shard_records(store.root):
        key, name, spent = record["key"], record["settings"], float(record["seconds"])
        if name not in texts:
            known = store.read_json(f"settings/{name}.json") or {"settings": {}}
            texts[name] = ", ".join(f"{setting} {value}" for setting, value in known["settings"].items())
        settings[key], seconds[key] = texts[name], spent
    return settings, seconds
