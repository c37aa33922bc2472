"""`kidpipe inspect` and `kidpipe query`: one example in colour, and SQL over the artifacts."""

import logging
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from rich.text import Text

from kidcore.errors import KidpipeError, first_line
from kidcore.method.overlap import MOST_COMPARED, Overlap
from kidcore.models.tokenizers import load_tokenizer
from kidcore.sql.example_ids import places
from kidcore.store.arrow import lists
from kidcore.store.makers import Maker, makers_of
from kidcore.store.manifest import Manifest, PartRecord, read_manifest
from kidcore.store.stages import STAGE_TABLE, STAGES
from kidcore.store.store import Shard, Store
from kidpipe.commands.query_views import file_list, make_views, require_writable, write_rows
from kidpipe.commands.session import Session, text_table
from kidpipe.commands.shown_tables import print_table

_SHOWN_PREDICTIONS = 3
_SHOWN_VALUES = 3
_EXPLAIN = re.compile(r"\s*explain\b\s*(analyze\b|\([^)]*\))?", re.IGNORECASE)

_LOG = logging.getLogger(__name__)


def inspect(session: Session, example_id: str, view: int, *, as_json: bool) -> None:
    """Show gold, masked, predicted and imperfect SQL of one example, and the predictor's best at each hole."""
    store, manifest = session.store, session.manifest()
    part, place, example_id = _locate(store, manifest, example_id)
    stages = ("ingest", "predict", "verify", "rewrite", "outcome", "score")
    rows = {stage: _find(store, part, stage, example_id, view) for stage in stages}
    ingest = rows["ingest"]
    assert ingest is not None, example_id
    if ingest["reason"]:
        raise KidpipeError(f"{place} was set aside: {ingest['reason']}", where=ingest["gold_sql"])
    predict, rewrite = rows["predict"], rows["rewrite"]
    if predict is None or rewrite is None:
        if "rewrite" not in manifest.stages:
            raise KidpipeError(f"nothing has been rewritten yet: {place} is as it was ingested", fix="kidpipe build-imperfect")
        raise KidpipeError(f"no view {view} of {place}", fix=f"this manifest has {manifest.facts.views} views, counted from 0")
    tokenizer = load_tokenizer(store.root / "tokenizers" / manifest.facts.tokenizer)

    def decode(token: int) -> str:
        return str(tokenizer.decode([token], clean_up_tokenization_spaces=False)) if token >= 0 else ""

    holes = _holes(predict, rows["verify"] or predict, ingest["gold_ids"], decode)
    overlap = _overlap(predict, rows["score"]) if _is_students(manifest) else None
    made = _makers(store, part, view)
    if as_json:
        texts = {name: ingest[name] for name in ("db_id", "question", "gold_sql")}
        names = {"example_id": place, "content_id": example_id}
        session.print_json(
            names
            | texts
            | {"view": view, "imperfect_sql": rewrite["imperfect_sql"], "holes": holes, "made": made}
            | ({} if overlap is None else {"overlap": overlap.as_json()})
        )
        return
    name = place if place == example_id else f"{place} ({example_id})"
    _print_example(session, name, ingest, rewrite, rows["outcome"] or {}, holes, decode)
    if overlap is not None:
        session.console.print(f"overlap     at the holes {overlap}")
    for stage, maker in made.items():
        session.console.print(f"{stage:<11} made by {Maker.parse(maker) or 'what is not recorded'}")


def _example_ids(store: Store, manifest: Manifest) -> list[tuple[PartRecord, str]]:
    """(part, example id) of every example, in the data's order."""
    return [
        (part, str(example_id))
        for part in manifest.parts
        for file in part.files["ingest"]
        for example_id in store.read(Shard.at(file), ["example_id"]).column("example_id").to_pylist()
    ]


def _locate(store: Store, manifest: Manifest, asked: str) -> tuple[PartRecord, str, str]:
    """The part, place and id of the example called `asked`: an id, a place (`train:17` or `17`), or how an id begins."""
    named = _example_ids(store, manifest)
    ids = [example_id for _part, example_id in named]
    shown = places(ids)
    matches: tuple[Callable[[int], bool], ...] = (
        lambda i: ids[i] == asked,
        lambda i: asked in (shown[i], str(i)),
        lambda i: asked != "" and any(name.startswith(asked) for name in (ids[i], ids[i].partition(":")[2])),
    )
    for is_meant in matches:
        found = [i for i in range(len(ids)) if is_meant(i)]
        if len(found) > 1:
            few = ", ".join(ids[i] for i in found[:5])
            raise KidpipeError(f"{len(found)} examples begin with {asked!r}: {few}", fix="give more of the id")
        if found:
            part, example_id = named[found[0]]
            return part, shown[found[0]], example_id
    few = ", ".join(dict.fromkeys([*shown[:1], *ids[:1]]))
    raise KidpipeError(f"no example {asked!r} among the {len(ids)} in the manifest", fix=f"ids look like {few}")


def _makers(store: Store, part: PartRecord, view: int) -> dict[str, dict[str, Any] | None]:
    """What made this part's shards in which a model was asked, by stage; None where the log does not tell."""
    stages = [(row.name, part.files.get(row.name, ())) for row in STAGE_TABLE.values() if row.model]
    shards = {stage: Shard.at(files[view if view < len(files) else 0]) for stage, files in stages if files}
    known = makers_of(store, {shard.key for shard in shards.values()})
    return {stage: known[shard.key].as_json() if shard.key in known else None for stage, shard in shards.items()}


def _find(store: Store, part: PartRecord, stage: str, example_id: str, view: int) -> dict[str, Any] | None:
    """The row of an example in a stage's shard, as numpy arrays and plain values."""
    files = part.files.get(stage, ())
    number = 0 if stage == "ingest" else view
    if not 0 <= number < len(files):
        return None
    table = store.read(Shard.at(files[number]))
    ids = table.column("example_id").to_pylist()
    if example_id not in ids:
        return None
    one = table.slice(ids.index(example_id), 1)
    return {
        name: lists(one, name)[0] if pa.types.is_list(one.schema.field(name).type) else one.column(name)[0].as_py()
        for name in one.column_names
    }


def _holes(predict: dict[str, Any], picked: dict[str, Any], gold: Any, decode: Callable[[int], str]) -> list[dict[str, Any]]:
    count = len(predict["masked"])
    ids, logprobs = predict["hole_ids"].reshape(count, -1), predict["hole_logprobs"].reshape(count, -1)
    return [
        {
            "position": int(position),
            "gold": decode(int(gold[position])),
            "filled": decode(int(filled)),
            "best": [
                {"token": decode(int(token)), "probability": round(float(np.exp(logprob)), 4)}
                for token, logprob in zip(ids[hole, :_SHOWN_PREDICTIONS], logprobs[hole, :_SHOWN_PREDICTIONS], strict=True)
            ],
        }
        # A student's proposal may have been replaced: whether it was is said beside the token that stands there.
        | ({"accepted": bool(picked["accepted"][hole])} if "accepted" in picked else {})
        for hole, (position, filled) in enumerate(zip(predict["masked"], picked["filled_ids"], strict=True))
    ]


def _is_students(manifest: Manifest) -> bool:
    """Whether it was a student that predicted: its scores at the holes are stored then."""
    settings = manifest.stages["predict"].settings
    is_students: bool = settings["predict.predictor"] == "student" or settings["predict.fill"] == "verify"
    return is_students


def _overlap(predict: dict[str, Any], score: dict[str, Any] | None) -> Overlap | None:
    """A student's stored predictions at the holes against the teacher's stored scores there, each behind a prefix of its own."""
    if score is None:
        return None
    ends = np.cumsum(score["topk_count"])
    count = len(predict["masked"])
    ids, logprobs = predict["hole_ids"].reshape(count, -1), predict["hole_logprobs"].reshape(count, -1)
    sums = np.zeros(5)
    for hole, position in enumerate(predict["masked"]):
        number = int(score["topk_count"][position])
        stored = score["topk_ids"][ends[position] - number : ends[position]]
        is_stored = np.isin(ids[hole], stored)
        compared = min(number, MOST_COMPARED, ids.shape[1])
        sums += (1, is_stored[0], compared, is_stored[:compared].sum(), np.exp(logprobs[hole])[is_stored].sum())
    return Overlap.of(sums.tolist())


def _print_example(
    session: Session,
    name: str,
    ingest: dict[str, Any],
    rewrite: dict[str, Any],
    outcome: dict[str, Any],
    holes: list[dict[str, Any]],
    decode: Callable[[int], str],
) -> None:
    at = {hole["position"]: hole for hole in holes}
    gold, masked, imperfect = Text(), Text(), Text()
    for position, (old, new) in enumerate(zip(ingest["gold_ids"], rewrite["imperfect_ids"], strict=True)):
        is_hole, is_new = position in at, old != new
        was, now = decode(int(old)), _visible(decode(int(new)))
        blank = was[: len(was) - len(was.lstrip())] + "▁" * max(len(was.strip()), 1)
        gold.append(was, style="bold" if is_hole else "")
        masked.append(blank if is_hole else was, style="yellow" if is_hole else "")
        imperfect.append(now, style="bold red" if is_new else "green" if is_hole else "")
    say = session.console.print
    where = f"  database {ingest['db_id']}, view {rewrite['view']}, {rewrite['strategy']} masking"
    say(Text.assemble((name, "bold"), where))
    table = text_table("", {"": "left", " ": "left"})
    for label, text in (("question", Text(ingest["question"])), ("gold", gold), ("masked", masked), ("imperfect", imperfect)):
        table.add_row(label, text)
    say(table)
    verdict = {True: "yes", False: "no"}
    checks = {"parses": rewrite["parses"], "executes": outcome.get("executes"), "gold result": outcome.get("same_result")}
    say(", ".join(f"{name} {verdict[value]}" for name, value in checks.items() if value is not None))
    verified = any("accepted" in hole for hole in holes)
    columns = {"hole": "right", "gold": "left", "filled": "left", "best three": "left"}
    best = text_table("", columns | ({"verified": "left"} if verified else {}))
    for hole in holes:
        style = "" if hole["gold"] == hole["filled"] else "red"
        shown = "  ".join(f"{item['token']!r} {item['probability']:.1%}" for item in hole["best"] if item["token"])
        said = [{True: "the student's", False: "the teacher's"}[hole["accepted"]]] if verified else []
        best.add_row(str(hole["position"]), repr(hole["gold"]), repr(hole["filled"]), shown, *said, style=style)
    say(best)


def _visible(text: str) -> str:
    """Line breaks and tabs shown as signs, so that a query stays on its line."""
    return text.replace("\n", "⏎").replace("\t", "⇥")


def query(session: Session, sql: str, *, as_json: bool, out: Path | None = None) -> None:
    """Run SQL with DuckDB over the latest manifest's shards, each stage a view of its name, and over verdicts and runs.

    In a view `example_id` is what `inspect` and people call an example (`train:17`: its place in the data), and
    `content_id` is the id in the shard, which stays when the example moves.
    """
    require_writable(out)
    store = session.store
    with duckdb.connect() as connection:
        others = make_views(connection, store.root)
        # Runs, evaluations and comparisons can be asked about where nothing was built, or the latest build is a comparison's.
        manifest = read_manifest(store) if len(others) > 1 else session.manifest()
        shown = _make_stages(connection, store, manifest) if manifest else []
        try:
            _require_reading(connection, sql)
            if out is not None:
                _say_written(session, out, write_rows(connection, sql, out), as_json)
                return
            cursor = connection.execute(sql)
            names = [column[0] for column in cursor.description or []]
            rows = cursor.fetchall()
        except duckdb.Error as error:
            if "'pytz'" in str(error):
                what = "times with a time zone cannot be shown here"
                raise KidpipeError(what, where=sql, fix="cast them, as in now()::timestamp, or write them: --out FILE") from None
            views = ", ".join([*shown, *others])
            raise KidpipeError(first_line(error), where=sql, fix=f"views: {views}") from None
    if as_json:
        keys = _told_apart(names)
        session.print_json([{name: _plain(value) for name, value in zip(keys, row, strict=True)} for row in rows])
        return
    table = text_table("", dict.fromkeys(_told_apart(names), "left"))
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    print_table(session.console, table)


def _make_stages(connection: duckdb.DuckDBPyConnection, store: Store, manifest: Manifest) -> list[str]:
    """Make the views of a build's stages; those that are there."""
    _name_examples(connection, [example_id for _part, example_id in _example_ids(store, manifest)])
    return [stage for stage in STAGES if stage in manifest.stages and _make_stage(connection, store, manifest, stage)]


def _make_stage(connection: duckdb.DuckDBPyConnection, store: Store, manifest: Manifest, stage: str) -> bool:
    """Make the view of a stage, and say whether it is there: broken shards of one stop no question about the others."""
    files = [store.root / file for file in manifest.files(stage)]
    if not files:
        return False
    try:
        connection.execute(
            f"CREATE VIEW {stage} AS SELECT place AS example_id, content_id, shard.* EXCLUDE (example_id) "
            f"FROM read_parquet({file_list(files)}) AS shard JOIN kidpipe.names ON content_id = shard.example_id"
        )
    except duckdb.Error as error:
        _LOG.warning("no view %s: %s (kidpipe verify, then kidpipe build-imperfect)", stage, first_line(error))
        return False
    return True


def _say_written(session: Session, out: Path, rows: int, as_json: bool) -> None:
    if as_json:
        session.print_json({"file": str(out), "rows": rows})
    else:
        session.console.print(f"wrote {out}: {rows:,} rows")


def _name_examples(connection: duckdb.DuckDBPyConnection, ids: list[str]) -> None:
    """Make the table `names` (content_id, place), where SHOW TABLES does not list it."""
    names = pa.table({"content_id": pa.array(ids, pa.string()), "place": pa.array(places(ids), pa.string())})
    connection.register("_names", names)
    connection.execute("CREATE SCHEMA kidpipe; CREATE TABLE kidpipe.names AS SELECT * FROM _names")
    connection.unregister("_names")


def _require_reading(connection: Any, sql: str) -> None:
    """Shards are written by builds only."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise KidpipeError(f"{len(statements)} statements were given", where=sql, fix="give one statement")
    kind = statements[0].type
    if kind == duckdb.StatementType.EXPLAIN and (explained := _EXPLAIN.match(sql)):
        # EXPLAIN ANALYZE runs what it explains.
        _require_reading(connection, sql[explained.end() :])
        return
    if kind == duckdb.StatementType.MULTI:
        what = "a PIVOT that does not name its columns is several statements"
        raise KidpipeError(what, where=sql, fix="name them, as in PIVOT mask ON view IN (0, 1) USING count(*)")
    if kind != duckdb.StatementType.SELECT:
        raise KidpipeError("kidpipe query reads only", where=sql, fix="start with SELECT, FROM, DESCRIBE or SUMMARIZE")


def _cell(value: Any) -> str:
    """A value on one line; a long list shows how long it is."""
    if isinstance(value, list) and len(value) > _SHOWN_VALUES:
        return f"[{', '.join(map(str, value[:_SHOWN_VALUES]))}, … {len(value)} values]"
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def _told_apart(names: list[str]) -> list[str]:
    """Column names as keys: SQL may give two columns one name, an object may not."""
    keys: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(1))
        keys.append(name if name not in keys else next(key for key in numbered if key not in keys and key not in names))
    return keys


def _plain(value: Any) -> Any:
    """A value as JSON has it; what it has no form for, such as a date, as text."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
