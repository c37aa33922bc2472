"""A number of examples in; a data set, a small model and a finished store of that size out, made in minutes.

Names, keys, schemas, counts, the log and the manifest are those of a real build: `kidpipe plan` finds nothing to do and training
reads the shards, those of `score` too. What no model was asked for is drawn: token ids, masked positions and the teacher's
distributions, in sizes as real ones have. Prompts of a database begin with its schema.

A million examples are to take at most 12 GB and 15 minutes of two cores. What was made before a stop is not made again.
"""

import hashlib
import json
import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from kidcore.config.config import DataSettings
from kidcore.config.processes import usable_cores
from kidcore.sql.datasets import Example
from kidcore.store import shard_files
from kidcore.store.arrow import list_array
from kidcore.store.graph import Cell, Grid, Partition, Stage
from kidcore.store.schemas import schema_of
from kidpipe.commands.session import Session, open_session
from kidpipe.demo.recipe import ModelSize
from kidpipe.demo.setup import make_models
from pipeline.build import build
from pipeline.context import Context, open_context
from pipeline.ledger import Ledger, made_by
from pipeline.stages import stages

VIEWS = 3
NUM_DATABASES = 128
_RUN = 64
"""Neighbours in the file that ask about one database."""
_CYCLE = NUM_DATABASES * _RUN
_SCHEMA_TOKENS, _QUESTION_TOKENS = 360, (12, 60)
_SQL_TOKENS = (8, 64)
_STORED_IDS = 10.0
"""Mean of stored ids a position."""
_HOLES = 0.3
_VOCAB_SIZE = 320
_SAY_S = 20.0
_OF_A_VIEW = ("masked", "filled_ids", "hole_ids", "hole_logprobs", "imperfect_ids", "tail", "actual_logprob", "gold_logprob")


def make_store(folder: Path, rows: int) -> Session:
    """Make data, model and store in `folder`, or what is not there of them; the session that opens them."""
    if not (folder / "kidpipe.toml").exists():
        _make_inputs(folder, rows)
    session = open_session(folder / "kidpipe.toml", [], {})
    context = open_context(session.config)
    try:
        # A power cut during a benchmark costs the benchmark; syncing 30,000 files one by one would cost an hour. And to name a
        # shard after all its rows they are written once more.
        with patch.object(os, "fsync"), patch.object(shard_files, "rows_digest", _quick_digest):
            _write_shards(context, session)
            build(context, session.store, progress=False)
    finally:
        context.close()
    return session


def _quick_digest(table: pa.Table, counts: Mapping[str, Any]) -> str:
    """Names rows as well: what is drawn follows from the stage, the view and the examples."""
    views = table["view"][:1].to_pylist() if "view" in table.column_names else []
    said = [table.column_names, views, table["example_id"].to_pylist(), sorted(counts.items())]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[: shard_files.DIGEST_LENGTH]


def _make_inputs(folder: Path, rows: int) -> None:
    for number in range(NUM_DATABASES):
        place = folder / "data" / "databases" / _db_id(number)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{place.name}.sqlite").unlink(missing_ok=True)
        with closing(sqlite3.connect(place / f"{place.name}.sqlite")) as connection:
            connection.execute(f"CREATE TABLE t{number} (a INT)")
    _write_questions(folder / "data" / "train.jsonl", rows)
    size = ModelSize(hidden_size=32, layers=1, heads=1, kv_heads=1, intermediate=32)
    few = DataSettings(path=str(folder / "data"), layout="jsonl", limit=_CYCLE)
    make_models(few, {folder / "model": size}, vocab_size=_VOCAB_SIZE, max_length=4096, seed=0)
    places = {"data.path": "data", "teacher.model": "model", "train.student": "model", "store.path": "artifacts"}
    settings = {name: str(folder / place) for name, place in places.items()}
    settings |= {"data.layout": "jsonl", "engine.backend": "transformers", "engine.device": "cpu"}
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()] + [f"mask.views = {VIEWS}\n"]
    (folder / "kidpipe.toml").write_text("".join(lines), encoding="utf-8")


def _db_id(number: int) -> str:
    return f"db_{number:03}"


def _write_questions(path: Path, rows: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in range(rows):
            number = row % _CYCLE // _RUN
            asked = {
                "db_id": _db_id(number),
                "question": f"What is the largest value of a among the rows that order {row} named, without the cancelled ones?",
                "query": f"SELECT max(a) FROM t{number} WHERE a BETWEEN {row % 977} AND {row} AND a != {row % 31} LIMIT 1",
            }
            file.write(json.dumps(asked) + "\n")


def _write_shards(context: Context, session: Session) -> None:
    """Write what is missing, in as many processes as there are cores: nothing that one part needs is another's."""
    grid = Grid(stages(context, "score"), context.parts, session.store)
    last = grid.stages[-1]
    assert last.name == "score", "training reads the scores"
    writer = _Writer(context, session, grid, Ledger(grid, session.store), _Drawn())
    for stage in grid.stages:
        (session.store.root / stage.name).mkdir(parents=True, exist_ok=True)
    missing = [part for part in grid.parts if any(not writer.is_done(stage, part) for stage in grid.stages)]
    # Forks: each has the examples, which take seconds to read and half a gigabyte to hold.
    cores = usable_cores()
    some = [multiprocessing.get_context("fork").Process(target=writer.write, args=(missing[n::cores],)) for n in range(cores)]
    for process in some:
        process.start()
    for process in some:
        process.join()
    if any(process.exitcode for process in some):
        raise SystemExit("a process that writes shards failed")


@dataclass
class _Writer:
    """Writes all shards of a part."""

    context: Context
    session: Session
    grid: Grid
    ledger: Ledger
    drawn: "_Drawn"

    def is_done(self, stage: Stage, part: Partition) -> bool:
        return all(self.grid.look(stage, part, view).state == "done" for view in stage.each_view())

    def write(self, parts: Sequence[Partition]) -> None:
        """Those of some parts; each stage's keys follow from what the ones before it hold."""
        starts = list(accumulate((part.rows for part in self.grid.parts), initial=0))
        said = time.monotonic()
        for number, part in enumerate(parts):
            examples = self.context.examples(part)
            for stage in self.grid.stages:
                for view in stage.each_view():
                    cell = self.grid.look(stage, part, view)
                    if cell.state == "done":
                        continue
                    table = self.drawn.table(stage.name, starts[part.index], examples, view)
                    line = self.ledger.line(stage, cell) | made_by(None, seconds=1.0, engine_start_s=0.0)
                    _commit(self.grid, self.session, stage, cell, table, line)
                    self.grid.look(stage, part, view)
            if time.monotonic() - said > _SAY_S:
                said = time.monotonic()
                print(f"{number + 1} of {len(parts)} parts", flush=True)


def _commit(grid: Grid, session: Session, stage: Stage, cell: Cell, table: pa.Table, line: Mapping[str, Any]) -> None:
    counts = {"in": table.num_rows, "out": table.num_rows} | _STATISTICS.get(stage.name, lambda _table: {})(table)
    grid.add(session.store.commit(stage.name, cell.key, table, counts, line))


def _scored(table: pa.Table) -> dict[str, int]:
    return {"positions": _num_values(table, "tail"), "stored_ids": _num_values(table, "topk_ids")}


def _num_values(table: pa.Table, name: str) -> int:
    return len(table[name].combine_chunks().flatten())


def _rewritten(table: pa.Table) -> dict[str, int]:
    holes = sum(table["num_masked"].to_pylist())
    return {"masked": holes, "rewritten": holes // 2, "changed_rows": table.num_rows, "parse": table.num_rows}


_STATISTICS: Mapping[str, Callable[[pa.Table], dict[str, int]]] = {
    "gold_score": _scored,
    "score": lambda table: _scored(table) | {"reused_gold": 0},
    "rewrite": _rewritten,
    "mask": lambda table: {"masked": _num_values(table, "masked")},
    "outcome": lambda table: {"execute": table.num_rows, "same_result": 0},
}


@dataclass
class _Drawn:
    """The columns of a stage for a cycle of examples, drawn once; a shard takes its rows of them and adds ids and texts."""

    columns: dict[tuple[str, int], pa.Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self._schemas = rng.integers(8, _VOCAB_SIZE, (NUM_DATABASES, _SCHEMA_TOKENS))
        self._questions = rng.integers(*_QUESTION_TOKENS, _CYCLE)
        self._lengths = rng.integers(*_SQL_TOKENS, _CYCLE)
        self._holes = np.maximum(1, (self._lengths * _HOLES).astype(np.int64))

    def table(self, stage: str, first: int, examples: Sequence[Example], view: int) -> pa.Table:
        """The rows of a shard whose first example is the `first` of the data set."""
        rows = (first + np.arange(len(examples))) % _CYCLE
        given = {
            "example_id": [e.example_id for e in examples],
            "db_id": [e.db_id for e in examples],
            "question": [e.question for e in examples],
            "gold_sql": [e.gold_sql for e in examples],
            "imperfect_sql": [e.gold_sql for e in examples],
            "view": np.full(len(examples), view, np.int16),
            "reason": [None] * len(examples),
            "strategy": ["random"] * len(examples),
        }
        arrays = []
        for column in schema_of(stage):
            if column.name in given:
                arrays.append(pa.array(given[column.name], column.type))
            else:
                arrays.append(self._column(column, view).take(pa.array(rows)))
        return pa.table(arrays, schema=schema_of(stage))

    def _column(self, column: pa.Field, view: int) -> pa.Array:
        name = (column.name, view if column.name in _OF_A_VIEW else 0)
        if name not in self.columns:
            self.columns[name] = self._draw(column, np.random.default_rng([name[1], *column.name.encode()]))
        return self.columns[name]

    def _draw(self, column: pa.Field, rng: np.random.Generator) -> pa.Array:
        name, lengths, holes = column.name, self._lengths, self._holes
        ends = np.cumsum(lengths + 1)
        if name == "prompt_ids":
            schemas = np.arange(_CYCLE) // _RUN
            prompts = [
                np.concatenate([self._schemas[schema], rng.integers(8, _VOCAB_SIZE, size)])
                for schema, size in zip(schemas, self._questions, strict=True)
            ]
            return list_array(prompts, column.type)
        if name in ("topk_ids", "topk_logprobs"):
            counts = self._counts().astype(np.int64)
            sums, total = np.add.reduceat(counts, ends - lengths - 1), int(counts.sum())
            if name == "topk_ids":
                return _ragged(np.minimum(8 + rng.geometric(0.02, total), _VOCAB_SIZE - 1), sums, column.type)
            return _ragged(-rng.gamma(2.0, 2.0, total).astype(np.float16), sums, column.type)
        draws: dict[str, Callable[[int], Any]] = {
            "topk_count": lambda _n: self._counts(),
            "tail": lambda n: rng.random(n) * 1e-3,
            "actual_logprob": lambda n: -rng.gamma(0.3, 1.0, n),
            "gold_logprob": lambda n: -rng.gamma(0.3, 1.0, n),
        }
        if name in draws:
            return _ragged(draws[name](int(ends[-1])), lengths + 1, column.type)
        if name in ("masked", "filled_ids"):
            values = [np.sort(rng.permutation(length)[:count]) for length, count in zip(lengths, holes, strict=True)]
            return list_array(values, column.type)
        if name in ("hole_ids", "hole_logprobs"):
            return _ragged(rng.integers(0, _VOCAB_SIZE, int(4 * holes.sum())), 4 * holes, column.type)
        if name in ("gold_ids", "imperfect_ids"):
            gold = np.random.default_rng(1).integers(8, _VOCAB_SIZE, int(lengths.sum()))
            is_other = rng.random(len(gold)) < (_HOLES / 2 if name == "imperfect_ids" else 0)
            return _ragged(np.where(is_other, rng.integers(8, _VOCAB_SIZE, len(gold)), gold), lengths, column.type)
        if name == "gold_starts":
            return list_array([4 * np.arange(length) for length in lengths], column.type)
        plain = {"num_masked": holes, "num_rewritten": holes // 2, "schema_tokens": np.full(_CYCLE, _SCHEMA_TOKENS)}
        flags = np.ones(_CYCLE, bool)
        return pa.array(plain.get(name, flags if pa.types.is_boolean(column.type) else np.full(_CYCLE, 0.5)), column.type)

    def _counts(self) -> Any:
        """Stored ids a position: few where the teacher is sure."""
        drawn = np.random.default_rng(7).geometric(1 / _STORED_IDS, int((self._lengths + 1).sum()))
        return np.minimum(drawn, 64).astype(np.int16)


def _ragged(values: Any, lengths: Any, kind: pa.ListType) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.asarray(values, kind.value_type.to_pandas_dtype())), type=kind)
