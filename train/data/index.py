"""The shards of a build in; which examples each part has to train on and to evaluate with, out: some 30 bytes an example.

It is made once a machine, from two columns of the shards, and written beside the store; every process then maps the file, and of
it reads the parts that it comes to. What is started or pickled is the file's name, never what is in it.

The files that were used last are kept, and those in use: whoever maps one holds a shared lock on it for as long.
"""

import fcntl
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kidcore.atomic import replacing
from kidcore.config.settings import fingerprint
from kidcore.config.train_settings import TrainSettings
from kidcore.locks import waiting_for
from kidcore.method.methods import METHODS, OUTCOMES, takes_correct_answers
from train.data.sampler import are_held_out, hashed
from train.data.shards import PartFiles, read_columns, read_usable_ids
from train.data.views import correct_answers

_VERSION = 1
"""Raised when the same shards and settings give another index."""
_KEPT = 8
"""Files: a comparison of a few methods and seeds finds all of its own again."""
_SCHEMA = pa.schema([pa.field("example_id", pa.string()), pa.field("db", pa.int32()), pa.field("held", pa.bool_())])


@dataclass(frozen=True)
class PartIndex:
    """The examples of one part."""

    train: Sequence[tuple[str, str]]
    """Ids to train on, each with its database, sorted."""
    held: Sequence[str]
    """Ids kept for evaluation, sorted."""


class ExampleIndex:
    """The examples of all parts, by the number of the part."""

    def __init__(self, file: Path | pa.Buffer) -> None:
        """Of what `write` wrote: a file, which is mapped, or what would stand in it."""
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._file,)

    @cached_property
    def num_train(self) -> Sequence[int]:
        """Examples to train on, by part."""
        return [train for train, _ in self._counts]

    @cached_property
    def num_held(self) -> Sequence[int]:
        """Examples kept for evaluation, by part."""
        return [held for _, held in self._counts]

    def part(self, number: int) -> PartIndex:
        """The examples of one part."""
        batch = self._reader.get_batch(number)
        ids, places, held = (column.to_pylist() for column in batch.columns)
        names = self._said["db_ids"]
        rows = list(zip(ids, places, held, strict=True))
        return PartIndex(
            sorted((example_id, names[place]) for example_id, place, is_held in rows if not is_held),
            sorted(example_id for example_id, _, is_held in rows if is_held),
        )

    @cached_property
    def _reader(self) -> pa.ipc.RecordBatchFileReader:
        return pa.ipc.open_file(_mapped(self._file) if isinstance(self._file, Path) else self._file)

    @cached_property
    def _said(self) -> Mapping[str, Any]:
        said: Mapping[str, Any] = json.loads(self._reader.schema.metadata[b"kidpipe"])
        return said

    @property
    def _counts(self) -> Sequence[tuple[int, int]]:
        counts: Sequence[tuple[int, int]] = self._said["counts"]
        return counts


def index_of(parts: Sequence[PartFiles], settings: TrainSettings, cache: Path | None) -> ExampleIndex:
    """The index under `settings`; kept in the folder `cache` where there is one, else in memory.

    A method that is taught answers trains on questions all of whose answers are of use, or, where correct ones are asked
    for, that have one; it holds out as the others do.
    """
    if cache is None:
        sink = pa.BufferOutputStream()
        _write(parts, settings, sink)
        return ExampleIndex(sink.getvalue())
    answers = METHODS[settings.method].answers
    are_chosen = takes_correct_answers(settings)
    stages = ["ingest", answers, *([OUTCOMES[answers]] if answers and are_chosen else [])]
    names = [[path.name for stage in stages for path in files.of(stage)] for files in parts]
    held = [settings.holdout, settings.holdout_most, settings.seed]
    file = cache / f"examples-{fingerprint([_VERSION, names, answers, are_chosen, held])}.arrow"
    if (known := _known(file)) is not None:
        return known
    with waiting_for(cache / "index.lock"):
        if (known := _known(file)) is not None:
            return known
        with replacing(file) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            _write(parts, settings, sink)
        made = _known(file)
        assert made is not None, file
        _drop_oldest(cache)
        return made


def _known(file: Path) -> ExampleIndex | None:
    """What was written there; None where there is nothing, or nothing that can be read: it is made anew then."""
    index = ExampleIndex(file)
    try:
        if len(index.num_train) != len(index.num_held):
            return None
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError):
        return None
    with suppress(OSError):  # who may only read the folder does without being known as the last
        os.utime(file)
    return index


def _mapped(file: Path) -> pa.Buffer:
    """The bytes of a file, which stays locked for as long as they are: loader workers that are told its name find it, too."""
    while True:
        with file.open("rb") as opened:
            with suppress(OSError):  # no flock here: then nobody removes anything either
                fcntl.flock(opened, fcntl.LOCK_SH)
            # Another process may have removed it before the lock was ours, and made it again.
            if os.fstat(opened.fileno()).st_ino == file.stat().st_ino:
                # A map has a descriptor of its own for the same opening of the file, to which the lock belongs.
                return pa.py_buffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _drop_oldest(cache: Path) -> None:
    """Remove what was used longest ago, but for what is in use: those files of which nobody holds a lock."""
    found = []
    for file in cache.glob("examples-*.arrow"):
        with suppress(FileNotFoundError):
            found.append((file.stat().st_mtime_ns, file))
    for _, file in sorted(found, reverse=True)[_KEPT:]:
        with suppress(OSError), file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()


def _write(parts: Sequence[PartFiles], settings: TrainSettings, sink: Any) -> None:
    names: dict[str, int] = {}
    drawn = [_drawn(files, settings, names) for files in parts]
    kept = _most_held([part.num_held for part in drawn], parts, settings)
    batches = [part.batch(most, settings.seed) for part, most in zip(drawn, kept, strict=True)]
    counts = [(batch.num_rows - held, held) for batch in batches for held in [pc.sum(batch.column("held")).as_py() or 0]]
    said = json.dumps({"db_ids": list(names), "counts": counts}).encode()
    with pa.ipc.new_file(sink, _SCHEMA.with_metadata({b"kidpipe": said})) as writer:
        for batch in batches:
            writer.write_batch(batch)


@dataclass(frozen=True)
class _Drawn:
    """The rows of an ingest shard that are of use: in columns, as a million are in memory at once."""

    ids: pa.Array
    places: NDArray[np.int32]
    is_held: NDArray[np.bool_]
    """Whether it is in the share that is kept for evaluation."""
    is_answered: NDArray[np.bool_]
    """Whether the method could train on it."""

    @property
    def num_held(self) -> int:
        return int(self.is_held.sum())

    def batch(self, most: int, seed: int) -> pa.RecordBatch:
        """With `most` of those that were drawn kept, and the others trained on."""
        held = self.is_held
        if most < self.num_held:
            rows = sorted(np.flatnonzero(held), key=lambda row: hashed("holdout", seed, self.ids[row].as_py()))
            held = np.zeros_like(held)
            held[rows[:most]] = True
        wanted = np.flatnonzero(held | self.is_answered)
        return pa.record_batch([self.ids.take(pa.array(wanted)), self.places[wanted], held[wanted]], schema=_SCHEMA)


def _drawn(files: PartFiles, settings: TrainSettings, names: dict[str, int]) -> _Drawn:
    table = read_columns(files.one("ingest"), ["example_id", "db_id", "reason"])
    table = table.filter(table["reason"].is_null())
    ids = table["example_id"].to_pylist()
    answers = METHODS[settings.method].answers
    if takes_correct_answers(settings):
        answered = [set(correct_answers(files, answers))]
    else:
        answered = [set(read_usable_ids(path)) for path in files.of(answers)]
    return _Drawn(
        pa.array(ids, pa.string()),
        _places(table["db_id"], names),
        np.array(are_held_out(ids, settings.holdout, settings.seed), np.bool_),
        np.array([all(x in some for some in answered) for x in ids] if answered else np.ones(len(ids)), np.bool_),
    )


def _places(db_ids: pa.ChunkedArray, names: dict[str, int]) -> NDArray[np.int32]:
    """The number of each id in `names`, to which new ones are added."""
    encoded = db_ids.combine_chunks().dictionary_encode()
    numbers = np.array([names.setdefault(db_id, len(names)) for db_id in encoded.dictionary.to_pylist()], np.int32)
    places: NDArray[np.int32] = numbers[encoded.indices.to_numpy()]
    return places


def _most_held(drawn: Sequence[int], parts: Sequence[PartFiles], settings: TrainSettings) -> list[int]:
    """How many each part keeps of those that were drawn: all, or `holdout_most` in as few parts as hold them.

    Few, because each evaluation reads the shards of the parts that have any.
    """
    left, kept = settings.holdout_most, [0] * len(drawn)
    if sum(drawn) <= left:
        return list(drawn)
    for number in sorted(range(len(drawn)), key=lambda n: (hashed("holdout", settings.seed, parts[n].one("ingest").name), n)):
        kept[number] = min(drawn[number], left)
        left -= kept[number]
    return kept
