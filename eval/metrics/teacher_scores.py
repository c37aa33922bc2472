"""Answers in, the teacher's stored scores of them out: from the build's shards, and from what earlier measurements kept.

An answer is known by its tokens, prompt included, so it doesn't matter which split or run it came from.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eval.metrics.exposure import Scores
from kidcore.atomic import replacing
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import ScoreRequest
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.manifest import Manifest

_KEPT = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("count", pa.list_(pa.int32()), nullable=False),
        pa.field("ids", pa.list_(pa.int32()), nullable=False),
        pa.field("logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("outside", pa.list_(pa.float64()), nullable=False),
    ]
)
_COLUMNS = ["example_id", "prompt_ids", "topk_count", "topk_ids", "topk_logprobs", "tail"]


def key_of(request: ScoreRequest) -> str:
    """What an answer is known by."""
    return hashlib.sha256(f"{request.start}|".encode() + request.token_ids.tobytes()).hexdigest()[:32]


def keep(folder: Path, scores: Mapping[str, Scores]) -> None:
    """Store scores by key in a file of their own; the next measurement finds them."""
    rows = list(scores.values())
    columns = {
        "key": list(scores),
        "count": [[len(ids) for ids in row.ids] for row in rows],
        "ids": [np.concatenate(row.ids) for row in rows],
        "logprobs": [np.concatenate(row.logprobs) for row in rows],
        "outside": [np.asarray(row.outside) for row in rows],
    }
    name = hashlib.sha256("".join(sorted(scores)).encode()).hexdigest()[:32]
    table = arrow_table(_KEPT, columns)
    with replacing(folder / f"{name}.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")


def kept(folder: Path, wanted: set[str]) -> dict[str, Scores]:
    """The scores of `wanted` that earlier measurements kept."""
    found: dict[str, Scores] = {}
    for path in sorted(folder.glob("*.parquet")):
        table = _read(path, _KEPT.names)
        rows = zip(*(lists(table, name) for name in _KEPT.names[1:]), strict=True)
        for key, (count, ids, logprobs, outside) in zip(table.column("key").to_pylist(), rows, strict=True):
            if key in wanted:
                found[key] = Scores(_cut(ids, count), _cut(logprobs, count), outside.tolist())
    return found


def built(root: Path, manifest: Manifest, wanted: set[str], example_ids: set[str]) -> dict[str, Scores]:
    """The scores of `wanted` in the build's shards: of golds in gold_score, of imperfect answers in score.

    Shards without any of `example_ids` are not read further than to see that.
    """
    found: dict[str, Scores] = {}
    end = np.asarray([manifest.facts.eos_id], dtype=np.int32)
    for part in manifest.parts:
        gold = next(iter(part.files.get("gold_score", ())), None)
        if gold is None or not example_ids.intersection(_read(root / gold, ["example_id"]).column("example_id").to_pylist()):
            continue
        for file, answers in ((gold, "gold_ids"), *((file, "imperfect_ids") for file in part.files.get("score", ()))):
            for key, scores in _shard(root / file, answers, end):
                if key in wanted and key not in found:
                    found[key] = scores()
    return found


def _shard(path: Path, answers: str, end: NDArray[np.int32]) -> Iterator[tuple[str, Callable[[], Scores]]]:
    """Each row's key, and how to get its scores; the stored tail is the mass outside, half-precision sums are not."""
    table = _read(path, [*_COLUMNS, answers])
    columns = (lists(table, name) for name in (*_COLUMNS[1:], answers))
    for prompt, count, ids, logprobs, tail, answer in zip(*columns, strict=True):
        tokens = np.concatenate([prompt, answer, end]).astype(np.int32)

        def scores(
            count: NDArray[Any] = count, ids: NDArray[Any] = ids, logprobs: NDArray[Any] = logprobs, tail: NDArray[Any] = tail
        ) -> Scores:
            return Scores(_cut(ids, count), _cut(logprobs, count), tail.tolist())

        yield key_of(ScoreRequest(tokens, len(prompt))), scores


def _cut(values: NDArray[Any], count: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(values, np.cumsum(count)[:-1])


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns), memory_map=False)
    except (OSError, pa.ArrowException) as error:
        raise KidpipeError(
            f"stored scores cannot be read: {error}", where=str(path), fix="kidpipe build-imperfect, or remove the file"
        ) from error
