"""`kidpipe status`, `verify` and `pin`: what lies in the store, whether it is whole, what is to stay."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError
from kidcore.method.knowledge import GoldKnowledge
from kidcore.method.overlap import Overlap
from kidcore.store.footers import known_bytes
from kidcore.store.kept_knowledge import read_knowledge
from kidcore.store.makers import Maker, mixtures, read_summary
from kidcore.store.manifest import HEAD, read_head
from kidcore.store.stages import STAGES
from kidcore.store.store import BROKEN, DamagedShard, Shard, Store
from kidpipe.commands.judged import is_of_place
from kidpipe.commands.on_gold import on_gold, on_gold_lines
from kidpipe.commands.session import Session, show_bytes, text_table


def status(session: Session, *, as_json: bool) -> None:
    """What is finished, from directory scans alone: nothing large is read."""
    store = session.store
    head = read_head(store)
    sizes = known_bytes(store)
    rows = [
        _stage_status(store, stage) | {"in_manifest": head["shards"].get(stage, 0), "bytes": sizes.get(stage, 0)}
        for stage in STAGES
    ]
    report: dict[str, Any] = {
        "store": str(store.root),
        "manifest": head["digest"],
        "built": _when(store.root / HEAD),
        "teacher": session.config.teacher.model or None,
        "data": session.config.data.path,
        "building": store.lock_holder() or None,
        "stages": rows,
        "teacher_on_gold": on_gold(read_knowledge(store, head["digest"])),
        "made": read_summary(store, head["digest"]),
        "runs": _runs(store),
    }
    if as_json:
        session.print_json(report)
    else:
        _print_status(session, report)


def _print_status(session: Session, report: Mapping[str, Any]) -> None:
    table = text_table("", {"stage": "left", "shards": "right", "in manifest": "right", "rows": "right", "bytes": "right"})
    kept = [row for row in report["stages"] if row["shards"] or row["in_manifest"]]
    for row in kept or report["stages"]:
        counts = (str(row["shards"]), str(row["in_manifest"]), f"{row['rows']:,}")
        table.add_row(row["stage"], *counts, show_bytes(row["bytes"]) if row["bytes"] else "")
    session.console.print(table)
    built = f"{report['manifest']}, written {report['built']}" if report["manifest"] else "none yet: kidpipe build-imperfect"
    session.console.print(f"manifest    {built}")
    session.console.print(f"data        {report['data']}")
    session.console.print(f"teacher     {report['teacher'] or 'not named'}")
    for line in on_gold_lines(report["teacher_on_gold"]) + _made_lines(report["made"]):
        session.console.print(line)
    if report["building"]:
        session.console.print(f"building    {report['building']}")
    for run in report["runs"]:
        session.console.print(f"run         {run['name']}  {_run_line(run)}")
        for when in ("start", "final"):
            if (known := GoldKnowledge.from_json(run[f"{when}_on_gold"])) is not None:
                session.console.print(f"              {when}: {known}")
            if (overlap := Overlap.from_json(run[f"{when}_overlap"])) is not None:
                session.console.print(f"              {when}: {overlap}")


def _made_lines(made: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What made the shards of stages with a model, a line for each maker, and which stages mix them."""
    by: dict[str, list[str]] = {}
    for stage, entries in made.items():
        for entry in entries:
            if (maker := Maker.parse(entry)) and maker.engine:
                by.setdefault(str(maker), []).append(f"{stage} {entry['shards']}")
    lines = [f"made by     {maker}: {', '.join(stages)}" for maker, stages in by.items()]
    return lines + [f"mixed       {mixture}" for mixture in mixtures(made)]


def _stage_status(store: Store, stage: str) -> dict[str, Any]:
    """Counts from file names alone: with 50,000 shards even asking for their sizes would be felt."""
    shards = rows = 0
    if (store.root / stage).is_dir():
        for name in os.listdir(store.root / stage):  # noqa: PTH208 - Path.iterdir makes an object a file
            if shard := Shard.parse(stage, name):
                shards, rows = shards + 1, rows + shard.rows
    return {"stage": stage, "shards": shards, "rows": rows}


def _runs(store: Store) -> list[dict[str, Any]]:
    """Each run, with what its student knew of the holdout's gold at the start and in the end."""
    runs, scores = [], _scores(store)
    for folder in sorted(p for p in (store.root / "runs").glob("*") if p.is_dir()):
        result = store.known_object(f"runs/{folder.name}/result.json")
        state = "finished" if (folder / "last").is_dir() else "unfinished"
        if not result and (folder / "result.json").exists():
            state = "damaged"
        known = {f"{when}_on_gold": result.get(f"{when}_knowledge") for when in ("start", "final")}
        known |= {f"{when}_overlap": result.get(f"{when}_overlap") for when in ("start", "final")}
        steps = (path.name.removeprefix("step-") for path in folder.glob("checkpoints/step-*"))
        step = max((int(number) for number in steps if number.isdecimal()), default=0)
        figures = {"saved_step": step or None, "best_nll": result.get("best_nll"), "scores": scores.get(folder.name, {})}
        runs.append({"name": folder.name, "state": state, "changed": _when(folder / "log.jsonl"), **figures, **known})
    return runs


def _scores(store: Store) -> dict[str, dict[str, float | None]]:
    """By run, by evaluation of its student, ex_bag. Each summary is read once, however many runs there are."""
    found: dict[str, dict[str, float | None]] = {}
    for path in sorted((store.root / "eval").glob("*/summary.json")):
        summary = store.known_object(str(path.relative_to(store.root)))
        model = Path(summary.get("model") or "")
        student = store.root / "runs" / model.parent.name / model.name
        # A student of another store, too, lies in the folder of a run, and may have this one's name.
        if model.name in ("best", "last") and is_of_place(summary, student, store.root):
            score = summary.get("metrics", {}).get("ex_bag", {}).get("all", {}).get("value")
            found.setdefault(model.parent.name, {})[path.parent.name] = score
    return found


def _run_line(run: Mapping[str, Any]) -> str:
    """finished, or where it stands, with what is known of how good it is."""
    stands = f", step {run['saved_step']} is saved" if run["saved_step"] else ", nothing saved yet"
    more = {"unfinished": stands, "damaged": ", its result.json cannot be read"}
    parts = [run["state"] + more.get(run["state"], "")]
    parts += [f"holdout NLL {run['best_nll']:.4f}"] if run["best_nll"] is not None else []
    parts += [f"ex_bag {score:.1%} ({name})" for name, score in run["scores"].items() if score is not None]
    return ", ".join([*parts, *([run["changed"]] if run["changed"] else [])])


def _when(path: Path) -> str | None:
    """When a file was written, in local time; None where it is not there."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat(" ", "minutes")
    except OSError:
        return None


def verify(session: Session, *, deep: bool, as_json: bool) -> None:
    """Check every shard; broken ones are set aside, so that the next build makes just those anew."""
    store = session.store
    checked, broken = 0, []
    for stage in STAGES:
        folder = store.root / stage
        shards = [Shard.parse(stage, path.name) for path in sorted(folder.glob("*.parquet"))] if folder.is_dir() else []
        for shard in (s for s in shards if s is not None):
            checked += 1
            why = _damage(store, shard, deep)
            if why:
                store.set_aside(shard)
                broken.append({"shard": shard.file, "why": why})
    if as_json:
        session.print_json({"checked": checked, "broken": broken})
    else:
        for item in broken:
            session.console.print(f"broken      {item['shard']}: {item['why']} (renamed to *{BROKEN})")
        session.console.print(f"{checked} shards checked{' byte by byte' if deep else ''}, {len(broken)} broken")
    if broken:
        raise KidpipeError(f"{len(broken)} broken shards were set aside", where=str(store.root), fix="kidpipe build-imperfect")


def _damage(store: Store, shard: Shard, deep: bool) -> str:
    if deep and not store.is_as_written(shard):
        return "its bytes are not those that were written"
    try:
        store.counts(shard)
    except DamagedShard as damage:
        return damage.what
    return ""


def pin(session: Session, *, as_json: bool) -> None:
    """Keep the latest manifest's shards from gc for good."""
    digest = session.manifest().digest
    session.store.write_json(f"pins/{digest}.json", {"digest": digest})
    if as_json:
        session.print_json({"pinned": digest})
    else:
        counts = Counter(file.partition("/")[0] for file in session.manifest().files())
        session.console.print(f"pinned {digest}: {counts.total()} shards stay until pins/{digest}.json is removed")
