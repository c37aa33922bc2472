"""`kidpipe inspect --shard`: a shard's file in; what it says of its making, and what its store knows beside that, out."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from kidcore.errors import KidpipeError, first_line
from kidcore.store.log import shard_records
from kidcore.store.makers import Maker, makers_of
from kidcore.store.manifest import LATEST, Manifest, read_manifest
from kidcore.store.model_names import model_names
from kidcore.store.shard_files import read_footer
from kidcore.store.stages import STAGE_TABLE
from kidcore.store.store import Shard, Store
from kidpipe.commands.session import Session, show_bytes, text_table


def inspect_shard(session: Session, file: Path, *, as_json: bool) -> None:
    """Show what a shard says that it was made from, and what its store knows beside that."""
    report = _report(file)
    if as_json:
        session.print_json(report)
        return
    _print(session, report)


def _report(file: Path) -> dict[str, Any]:
    try:
        footer = read_footer(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise KidpipeError(
            f"no shard can be read there: {first_line(error)}",
            where=str(file),
            fix="name a file <store>/<stage>/*.parquet",
        ) from None
    columns = [{"name": field.name, "type": str(field.type), "description": _description(field)} for field in footer.schema]
    said = {"provenance": footer.provenance or None, "counts": footer.counts or None}
    known = _known_to_store(file, footer.provenance.get("settings"))
    return {"file": str(file), "bytes": file.stat().st_size} | said | known | {"columns": columns}


def _description(field: pa.Field) -> str | None:
    text = (field.metadata or {}).get(b"description")
    return text.decode() if text else None


def _known_to_store(file: Path, settings: dict[str, Any] | None) -> dict[str, Any]:
    """What the footer leaves out, because it depends on where and when: nothing of it for a file that is in no store.

    Args:
        settings: those that the footer says.
    """
    stage, store = file.absolute().parent.name, Store(file.absolute().parent.parent)
    shard = Shard.parse(stage, file.name) if stage in STAGE_TABLE else None
    if shard is None:
        return {"whole": None, "settings": None, "models": {}, "in_latest": None, "made": None}
    settings = settings or _logged_settings(store, shard)
    weights = {name: value for name, value in (settings or {}).items() if name.endswith(".weights")}
    maker = makers_of(store, {shard.key}).get(shard.key)
    return {
        "whole": store.is_as_written(shard),
        "settings": settings,
        "models": {name.partition(".")[0]: model_names(store, value) for name, value in weights.items()},
        "in_latest": _place(read_manifest(store) if (store.root / LATEST).exists() else None, shard),
        "made": maker.as_json() if maker else None,
    }


def _logged_settings(store: Store, shard: Shard) -> dict[str, Any] | None:
    """Those of a shard of kidpipe 0.1, which says nothing itself."""
    for record in reversed(shard_records(store.root)):
        if record["key"] == shard.key:
            kept: dict[str, Any] = store.read_json(f"settings/{record['settings']}.json") or {}
            return kept.get("settings")
    return None


def _place(manifest: Manifest | None, shard: Shard) -> dict[str, Any] | None:
    """The part and view that a manifest names it for."""
    for part in manifest.parts if manifest else ():
        files = part.files.get(shard.stage, ())
        if shard.file in files:
            return {"part": part.part, "view": files.index(shard.file)}
    return None


def _print(session: Session, report: dict[str, Any]) -> None:
    say = session.console.print
    said, place = report["provenance"] or {}, report["in_latest"]
    whole = {True: "whole", False: "DAMAGED: kidpipe verify --deep sets it aside", None: "in no store"}[report["whole"]]
    say(f"file        {report['file']}")
    say(f"            {show_bytes(report['bytes'])}, {whole}")
    view = "" if said.get("view") is None else f", view {said['view']}"
    if said:
        say(f"made as     {said['stage']} (version {said.get('version', '?')}){view}, {said['rows']:,} rows")
        for name, digest in (said.get("inputs") or {}).items():
            say(f"from        {name} {digest}")
        for name, digest in (said.get("reads") or {}).items():
            say(f"reads       {name} {digest}")
    else:
        say("made as     kidpipe 0.1 made it, or another program: the file does not say from what")
    if source := said.get("cut_from"):
        role = "filled from " if said["stage"] == "predict" else "cut from    "
        say(f"{role}{source}, without a model")
    if place:
        say(f"manifest    the latest, part {place['part']}{view}")
    for role, names in report["models"].items():
        say(f"{role:<11} {', '.join(names) or 'not known by a name'}")
    if maker := Maker.parse(report["made"]):
        say(f"made by     {maker}")
    settings = text_table("", {"setting": "left", "value": "left"})
    for name, value in (report["settings"] or {}).items():
        settings.add_row(name, str(value))
    if settings.row_count:
        say(settings)
    columns = text_table("", {"column": "left", "holds": "left"})
    for column in report["columns"]:
        columns.add_row(column["name"], column["description"] or column["type"])
    say(columns)
