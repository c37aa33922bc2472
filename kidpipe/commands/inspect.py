"""`kidpipe inspect` and `kidpipe query`: one example in colour, and SQL over the artifacts."""

from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
from rich.text import Text

from kidcore.errors import KidpipeError
from kidcore.models.tokenizers import load_tokenizer
from kidcore.store.arrow import lists
from kidcore.store.manifest import Manifest
from kidcore.store.stages import STAGES
from kidcore.store.store import Shard, Store
from kidpipe.commands.session import Session, text_table

_SHOWN_PREDICTIONS = 3
_SHOWN_VALUES = 3


def inspect(session: Session, example_id: str, view: int, *, as_json: bool) -> None:
    """Show gold, masked, predicted and imperfect SQL of one example, and the predictor's best at each hole."""
    store, manifest = session.store, session.manifest()
    rows = {stage: _find(store, manifest, stage, example_id, view) for stage in ("ingest", "predict", "rewrite", "outcome")}
    ingest = rows["ingest"]
    if ingest is None:
        raise KidpipeError(f"no example {example_id!r} in the manifest", fix=f"ids look like {_an_id(store, manifest)}")
    if ingest["reason"]:
        raise KidpipeError(f"{example_id} was set aside: {ingest['reason']}", where=ingest["gold_sql"])
    predict, rewrite = rows["predict"], rows["rewrite"]
    if predict is None or rewrite is None:
        views = manifest.facts.views if "predict" in manifest.stages else 0
        raise KidpipeError(f"no view {view} of {example_id}", fix=f"this manifest has {views} views, counted from 0")
    tokenizer = load_tokenizer(store.root / "tokenizers" / manifest.facts.tokenizer)

    def decode(token: int) -> str:
        return str(tokenizer.decode([token], clean_up_tokenization_spaces=False)) if token >= 0 else ""

    holes = _holes(predict, ingest["gold_ids"], decode)
    if as_json:
        texts = {name: ingest[name] for name in ("example_id", "db_id", "question", "gold_sql")}
        session.print_json(texts | {"view": view, "imperfect_sql": rewrite["imperfect_sql"], "holes": holes})
        return
    _print_example(session, ingest, rewrite, rows["outcome"] or {}, holes, decode)


def _find(store: Store, manifest: Manifest, stage: str, example_id: str, view: int) -> dict[str, Any] | None:
    """The row of an example in a stage's shards, as numpy arrays and plain values."""
    for part in manifest.parts:
        files = part.files.get(stage, ())
        number = view if stage in manifest.stages and manifest.stages[stage].views else 0
        if number >= len(files):
            return None
        table = store.read(_shard(files[number]))
        ids = table.column("example_id").to_pylist()
        if example_id in ids:
            row = ids.index(example_id)
            one = table.slice(row, 1)
            return {
                name: lists(one, name)[0] if _is_list(one, name) else one.column(name)[0].as_py() for name in one.column_names
            }
    return None


def _shard(file: str) -> Shard:
    stage, _, name = file.partition("/")
    shard = Shard.parse(stage, name)
    assert shard is not None, file
    return shard


def _is_list(table: Any, name: str) -> bool:
    return str(table.schema.field(name).type).startswith("list")


def _an_id(store: Store, manifest: Manifest) -> str:
    table = store.read(_shard(next(manifest.files("ingest"))))
    return str(table.column("example_id")[0].as_py())


def _holes(predict: dict[str, Any], gold: Any, decode: Callable[[int], str]) -> list[dict[str, Any]]:
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
        for hole, (position, filled) in enumerate(zip(predict["masked"], predict["filled_ids"], strict=True))
    ]


def _print_example(
    session: Session,
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
    say(f"[bold]{ingest['example_id']}[/]  database {ingest['db_id']}, view {rewrite['view']}, {rewrite['strategy']} masking")
    table = text_table("", {"": "left", " ": "left"})
    for name, text in (("question", Text(ingest["question"])), ("gold", gold), ("masked", masked), ("imperfect", imperfect)):
        table.add_row(name, text)
    say(table)
    verdict = {True: "yes", False: "no"}
    checks = {"parses": rewrite["parses"], "executes": outcome.get("executes"), "gold result": outcome.get("same_result")}
    say(", ".join(f"{name} {verdict[value]}" for name, value in checks.items() if value is not None))
    best = text_table("", {"hole": "right", "gold": "left", "filled": "left", "best three": "left"})
    for hole in holes:
        style = "" if hole["gold"] == hole["filled"] else "red"
        shown = "  ".join(f"{item['token']!r} {item['probability']:.1%}" for item in hole["best"] if item["token"])
        best.add_row(str(hole["position"]), repr(hole["gold"]), repr(hole["filled"]), shown, style=style)
    say(best)


def _visible(text: str) -> str:
    """Line breaks and tabs shown as signs, so that a query stays on its line."""
    return text.replace("\n", "⏎").replace("\t", "⇥")


def query(session: Session, sql: str, *, as_json: bool) -> None:
    """Run SQL with DuckDB over the latest manifest's shards; each stage is a view of its name."""
    store, manifest = session.store, session.manifest()
    with duckdb.connect() as connection:
        for stage in manifest.stages:
            files = [str(store.root / file) for file in manifest.files(stage)]
            if files:
                listing = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
                connection.execute(f"CREATE VIEW {stage} AS SELECT * FROM read_parquet([{listing}])")
        try:
            _require_reading(connection, sql)
            cursor = connection.execute(sql)
            names = [column[0] for column in cursor.description or []]
            rows = cursor.fetchall()
        except duckdb.Error as error:
            views = ", ".join(stage for stage in STAGES if stage in manifest.stages)
            raise KidpipeError(str(error).strip().splitlines()[0], where=sql, fix=f"views: {views}") from None
    if as_json:
        session.print_json([{name: _plain(value) for name, value in zip(names, row, strict=True)} for row in rows])
        return
    table = text_table("", dict.fromkeys(names, "left"))
    for row in rows:
        table.add_row(*map(_cell, row))
    session.console.print(table)


def _require_reading(connection: Any, sql: str) -> None:
    """Shards are written by builds only."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise KidpipeError(f"{len(statements)} statements were given", where=sql, fix="give one statement")
    if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise KidpipeError("kidpipe query reads only", where=sql, fix="start with SELECT, FROM, DESCRIBE or SUMMARIZE")


def _cell(value: Any) -> str:
    """A value on one line; a long list shows how long it is."""
    if isinstance(value, list) and len(value) > _SHOWN_VALUES:
        return f"[{', '.join(map(str, value[:_SHOWN_VALUES]))}, … {len(value)} values]"
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, list, type(None))) else str(value)
