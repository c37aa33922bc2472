"""A data set in; what a plan has to know of it out: its parts, who asks about which database, what a choice looks at.

That is a few bytes an example, and follows from the bytes of the data set's files. It is kept in the store, so that a plan, a
build with nothing to do and every process of a training run leave a million examples unread.
"""

import hashlib
import heapq
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import pairwise
from typing import Any, overload

from kidcore.config.config import DataSettings
from kidcore.config.digests import FileDigests
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.sql.datasets import DataSet, Example, locate, read
from kidcore.store.graph import Partition
from kidcore.store.store import Store
from kidcore.version import kidpipe_version
from pipeline.partitions import cuts

SAMPLE = 32
"""Questions that `ingest.chat = auto` looks at."""
OUTLINE = "outline.json"
"""May go at any time: whoever needs it makes it again."""
_VERSION = 2
"""Raised when the same files give other examples or parts."""
LARGE_BYTES = 4 << 20
"""Of the data set's files: smaller ones are read in a moment, and nothing has to be kept."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartOutline:
    """A run of examples: how many, the digest of what they say, and the places of their databases in `Outline.db_ids`."""

    rows: int
    source: str
    databases: tuple[int, ...]


@dataclass(frozen=True)
class Outline:
    """What a plan has to know of a data set."""

    num_examples: int
    db_ids: tuple[str, ...]
    """All that examples are about, sorted."""
    askers: Mapping[str, int]
    """Examples without a fault, by db_id."""
    parts: tuple[PartOutline, ...]
    sample: tuple[Example, ...]
    """The same ones whatever their order, and mostly the same ones when others are added."""
    is_ascii: bool
    """Whether all gold SQL is ASCII: each character is one byte then, and no token is a part of one."""

    @classmethod
    def of(cls, examples: Sequence[Example], shard_rows: int) -> "Outline":
        """Of examples that are in memory, in parts of about `shard_rows`."""
        db_ids = tuple(sorted({example.db_id for example in examples}))
        places = {db_id: place for place, db_id in enumerate(db_ids)}
        ends = [0, *cuts([example.example_id for example in examples], shard_rows), len(examples)]
        parts = []
        for start, end in pairwise(ends):
            some = examples[start:end]
            parts.append(PartOutline(len(some), _source_digest(some), tuple(sorted({places[e.db_id] for e in some}))))
        usable = [example for example in examples if not example.fault]
        sample = heapq.nsmallest(SAMPLE, usable, key=lambda e: hashlib.sha256(f"chat|{e.example_id}".encode()).digest())
        is_ascii = all(example.gold_sql.isascii() for example in examples)
        return cls(len(examples), db_ids, Counter(e.db_id for e in usable), tuple(parts), tuple(sample), is_ascii)

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return {
            "num_examples": self.num_examples,
            "db_ids": self.db_ids,
            "askers": dict(self.askers),
            "parts": [astuple(part) for part in self.parts],
            "sample": [asdict(example) for example in self.sample],
            "is_ascii": self.is_ascii,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Outline":
        """What `as_json` gave. Raises KeyError or TypeError for anything else."""
        parts = tuple(PartOutline(rows, source, tuple(databases)) for rows, source, databases in document["parts"])
        sample = tuple(Example(**example) for example in document["sample"])
        askers, is_ascii = document["askers"], document["is_ascii"]
        return cls(document["num_examples"], tuple(document["db_ids"]), askers, parts, sample, is_ascii)


class UnreadExamples(Sequence[Example]):
    """The examples of a data set whose number is known: they are read when one is asked for."""

    def __init__(self, number: int, settings: DataSettings) -> None:
        self._number, self._settings = number, settings
        self._read: Sequence[Example] = ()

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Example]: ...
    def __getitem__(self, place: int | slice) -> Example | Sequence[Example]:
        return self._examples()[place]

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples())

    def _examples(self) -> Sequence[Example]:
        if not self._read:
            self._read = read(self._settings, "train").examples
        return self._read


def read_outlined(settings: DataSettings, shard_rows: int, store: Store, digests: FileDigests) -> tuple[DataSet, Outline]:
    """The training examples and their outline; those of a large data set that was outlined before are not read yet.

    Raises:
        KidpipeError: as kidcore.sql.datasets.read.
    """
    files, databases = locate(settings, "train")
    if sum(file.stat().st_size for file in files) < LARGE_BYTES:
        dataset = read(settings, "train")
        return dataset, Outline.of(dataset.examples, shard_rows)
    named = [[file.name, digests.digest(file)] for file in files]
    chosen = settings.model_dump(include={"layout", "limit", "sample", "sample_seed"})
    made_from = fingerprint([_VERSION, kidpipe_version(), chosen, named, shard_rows])
    if (kept := _kept(store, made_from)) is not None:
        return DataSet(UnreadExamples(kept.num_examples, settings), databases), kept
    dataset = read(settings, "train")
    outline = Outline.of(dataset.examples, shard_rows)
    try:
        store.write_json(OUTLINE, {"made_from": made_from, **outline.as_json()})
    except (OSError, KidpipeError) as error:
        _LOG.debug("%s: not kept: %s", OUTLINE, error)  # a store that can only be read is planned all the same
    return dataset, outline


def split_parts(dataset: DataSet, outline: Outline, digests: FileDigests) -> list[Partition]:
    """The parts that flow through the graph.

    `content["source"]` hashes the examples, `content["databases"]` the database files they are about: a changed database
    reruns what reads databases, and nothing else unless the results differ.
    """
    known = database_digests(dataset, outline, digests)
    parts = []
    for index, part in enumerate(outline.parts):
        asked = {db_id: known[db_id] for db_id in (outline.db_ids[place] for place in part.databases)}
        parts.append(Partition(index, part.rows, {"source": part.source, "databases": fingerprint(asked)}))
    digests.save()
    return parts


def database_digests(dataset: DataSet, outline: Outline, digests: FileDigests) -> dict[str, str]:
    """By db_id, what changes when its database does."""
    return {db_id: dataset.database(db_id).digest(digests) for db_id in outline.db_ids}


def _kept(store: Store, made_from: str) -> Outline | None:
    try:
        document = store.read_json(OUTLINE)
        return Outline.from_json(document) if document and document["made_from"] == made_from else None
    except (KidpipeError, LookupError, TypeError, ValueError, AttributeError):
        return None


def _source_digest(examples: Sequence[Example]) -> str:
    return fingerprint([[e.example_id, e.db_id, e.question, e.evidence, e.gold_sql] for e in examples])
