"""The Parquet shards of one part in; rows as flat numpy buffers out, which are cut into examples only when a step asks.

Only the columns that the method learns from are read. Rows of different shards are joined by example id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kidcore.errors import KidpipeError
from train.data.examples import Branch, TeacherTopK, TrainingExample
from train.data.shared_rows import SharedRows


@dataclass(frozen=True)
class PartFiles:
    """The shards of one part: by stage, one file for each view. All but those of ingest are needed only by the methods that
    read them."""

    part: int
    files: Mapping[str, tuple[Path, ...]]

    def of(self, stage: str) -> tuple[Path, ...]:
        """The stage's shards; none where it was not built."""
        return self.files.get(stage, ())

    def one(self, stage: str) -> Path:
        """The shard of a stage without views that must be there."""
        (file,) = self.files[stage]
        return file


@dataclass(frozen=True)
class Ragged:
    """A list column: row i is values[offsets[i]:offsets[i + 1]]."""

    offsets: NDArray[np.int32]
    values: NDArray[np.generic]

    def __getitem__(self, row: int) -> NDArray[np.generic]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class ShardRows:
    """The columns of one shard that were asked for."""

    path: Path
    example_ids: list[str]
    db_ids: list[str]
    columns: dict[str, Ragged]
    row_of: dict[str, int]

    def row(self, example_id: str) -> int:
        """The row of an example that must be there."""
        try:
            return self.row_of[example_id]
        except KeyError:
            raise KidpipeError(
                f"example {example_id} was ingested but is missing from a shard made of it",
                where=str(self.path),
                fix="run kidpipe verify --deep, then kidpipe build-imperfect",
            ) from None


_TEACHER_COLUMNS = ("topk_count", "topk_ids", "topk_logprobs", "tail")
COLUMNS = {
    "ingest": ("prompt_ids", "gold_ids"),
    "generate": ("prompt_ids", "generated_ids"),
    "gold_score": ("prompt_ids", "gold_ids", *_TEACHER_COLUMNS),
    "score": ("prompt_ids", "gold_ids", "imperfect_ids", *_TEACHER_COLUMNS),
    "rollout_score": ("prompt_ids", "gold_ids", "imperfect_ids", *_TEACHER_COLUMNS),
}
"""What is learnt from the shards of each stage that a method may read."""


def read_shard(path: Path, stage: str, shared: SharedRows | None = None) -> ShardRows:
    """What is learnt from the shard of `stage` at `path`, decoded by this process or by one that shares it."""
    columns = COLUMNS[stage]
    names = ["example_id", "db_id", *columns]
    table = read_columns(path, names) if shared is None else shared.table(path, names, read_columns)
    ids = table["example_id"].to_pylist()
    return ShardRows(
        path=path,
        example_ids=ids,
        db_ids=table["db_id"].to_pylist(),
        columns={name: _ragged(table[name]) for name in columns},
        row_of={example_id: row for row, example_id in enumerate(ids)},
    )


def read_usable_ids(path: Path) -> list[str]:
    """Ids of the rows of an ingest or generate shard that were not set aside, in the shard's order."""
    table = read_columns(path, ["example_id", "reason"])
    return [str(x) for x in table.filter(table["reason"].is_null())["example_id"].to_pylist()]


def read_columns(path: Path, columns: list[str]) -> pa.Table:
    """Some columns of the shard at `path`; a KidpipeError where it cannot be read."""
    try:
        # Not read_table, which looks for a data set around the file: that takes longer than two columns of it.
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise KidpipeError(
            f"a shard cannot be read: {error}",
            where=str(path),
            fix="run kidpipe verify --deep, then kidpipe build-imperfect, which makes just this shard again",
        ) from error


def _ragged(column: pa.ChunkedArray) -> Ragged:
    # One chunk is taken as it is: joining would copy what is mapped.
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    offsets = array.offsets.to_numpy()
    values = array.values.to_numpy(zero_copy_only=True)
    return Ragged(offsets, values)


def gold_example(shard: ShardRows, row: int, eos_id: int, *, learn_gold: bool) -> TrainingExample:
    """Gold SQL, or the teacher's own answer in its place, with the teacher's distributions where the shard has them."""
    teacher = _teacher(shard, row) if "tail" in shard.columns else None
    sql = "gold_ids" if "gold_ids" in shard.columns else "generated_ids"
    branch = _branch(shard, row, sql, eos_id, learn_gold, teacher)
    return TrainingExample(shard.example_ids[row], shard.db_ids[row], (branch,))


def mixed_example(
    views: list[ShardRows], gold: ShardRows | None, example_id: str, eos_id: int, *, learn_gold: bool
) -> TrainingExample:
    """One imperfect branch a view, with the teacher's distributions on it, and the gold SQL before them where it is taught.

    Args:
        gold: GOLD_SCORE rows, when the gold branch carries the teacher's distributions too.
        learn_gold: whether the gold branch is imitated.
    """
    branches = []
    if gold is not None:
        row = gold.row(example_id)
        branches.append(_branch(gold, row, "gold_ids", eos_id, learn_gold, _teacher(gold, row)))
    elif learn_gold:
        branches.append(_branch(views[0], views[0].row(example_id), "gold_ids", eos_id, True, None))
    for shard in views:
        row = shard.row(example_id)
        branches.append(_branch(shard, row, "imperfect_ids", eos_id, False, _teacher(shard, row)))
    home = gold or views[0]
    return TrainingExample(example_id, home.db_ids[home.row(example_id)], tuple(branches))


def _branch(shard: ShardRows, row: int, sql: str, eos_id: int, learn_gold: bool, teacher: TeacherTopK | None) -> Branch:
    prompt = shard.columns["prompt_ids"][row]
    tokens = np.concatenate([prompt, shard.columns[sql][row]]).astype(np.int32, copy=False)
    branch = Branch(tokens, len(prompt), eos_id, learn_gold, teacher, is_gold=sql == "gold_ids")
    if teacher is not None and len(teacher.count) != branch.num_supervised:
        raise KidpipeError(
            f"{len(teacher.count)} teacher distributions for {branch.num_supervised} SQL tokens",
            where=f"{shard.path}, example {shard.example_ids[row]}",
            fix="run kidpipe verify --deep, then kidpipe build-imperfect",
        )
    return branch


def _teacher(shard: ShardRows, row: int) -> TeacherTopK:
    count, ids, logprobs, tail = (shard.columns[name][row] for name in _TEACHER_COLUMNS)
    return TeacherTopK(
        count.astype(np.int16, copy=False),
        ids.astype(np.int32, copy=False),
        logprobs.astype(np.float16, copy=False),
        tail.astype(np.float32, copy=False),
    )
