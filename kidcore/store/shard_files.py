"""Tables in, the Parquet files of shards out, which describe their columns and say their provenance; and whether a file is whole.

A shard is named after its rows: by the digest of the plain Parquet file that holds them with their counts and nothing else. So
what the footer says beside that can't make anything stale that is made from the rows. That the file is whole, it says itself: the
footer holds the SHA-256 of all other bytes. Files of kidpipe 0.1 have neither, and are the plain file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kidcore.store.schemas import described

COUNTS, PROVENANCE, CHECK = "kidpipe", "kidpipe.provenance", "kidpipe.check"
"""Names in the footer's key-value metadata."""
DIGEST_LENGTH = 32
_UNKNOWN = b"0" * DIGEST_LENGTH
_TAIL = 8
"""Bytes behind the footer: its length, and what every Parquet file ends with."""
_LAYOUT = {"compression": "zstd", "store_schema": True}
_ROW_GROUP = 1024


def rows_digest(table: pa.Table, counts: Mapping[str, Any]) -> str:
    """The name of the rows and their counts: 32 hex digits, the same whatever describes the columns."""
    bare = [field.remove_metadata() for field in table.schema]
    plain = table.cast(pa.schema(bare, {COUNTS: _counts_text(counts)}))
    sink = pa.BufferOutputStream()
    pq.write_table(plain, sink, row_group_size=_ROW_GROUP, **_LAYOUT)
    return hashlib.sha256(sink.getvalue()).hexdigest()[:DIGEST_LENGTH]


def write_shard(path: Path, table: pa.Table, counts: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """Write the rows, with what is to be said of them; the same arguments give the same bytes."""
    schema = described(table.schema).with_metadata({COUNTS: _counts_text(counts)})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **_LAYOUT) as writer:
        writer.write_table(table.cast(schema), row_group_size=_ROW_GROUP)
        # Not in the schema: Arrow would keep a second copy, in base 64, beside it.
        writer.add_key_value_metadata({PROVENANCE: json.dumps(provenance, ensure_ascii=False, separators=(",", ":"))})
        writer.add_key_value_metadata({CHECK: _UNKNOWN.decode()})
    data = sink.getvalue().to_pybytes()
    place = _check_place(data)
    assert place is not None, "Parquet writes key-value metadata otherwise than we know"
    path.write_bytes(_with_check(data, place, _digest(data).encode()))


def is_whole(path: Path, digest: str, promised: Mapping[str, Any]) -> bool:
    """Whether a file's bytes are those that were written, of the rows called `digest`; it may be of any version.

    Args:
        promised: what its provenance says, where it holds one.
    """
    data = path.read_bytes()
    place = _check_place(data)
    if place is None:
        return _digest(data) == digest
    found = data[place : place + DIGEST_LENGTH]
    if _digest(_with_check(data, place, _UNKNOWN)).encode() != found:
        return False
    said: dict[str, Any] = json.loads(pq.read_metadata(pa.BufferReader(data)).metadata[PROVENANCE.encode()])
    return promised.items() <= said.items()


@dataclass(frozen=True)
class Footer:
    """What a shard says beside its rows; counts and provenance are empty where it says nothing of them."""

    counts: dict[str, Any]
    provenance: dict[str, Any]
    schema: pa.Schema


def read_footer(path: Path) -> Footer:
    """The footer of a shard. Raises OSError, ValueError or ArrowException."""
    read = pq.read_metadata(path)
    known = read.metadata or {}
    counts, provenance = (json.loads(known.get(name.encode(), b"{}")) for name in (COUNTS, PROVENANCE))
    return Footer(counts, provenance, read.schema.to_arrow_schema())


def _counts_text(counts: Mapping[str, Any]) -> str:
    return json.dumps(counts, sort_keys=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_LENGTH]


def _with_check(data: bytes, place: int, check: bytes) -> bytes:
    return data[:place] + check + data[place + DIGEST_LENGTH :]


def _check_place(data: bytes) -> int | None:
    """Where the file's own digest stands in it; None where it has none."""
    # Thrift's compact form of a pair of texts: 0x18 and the length stand before each.
    name = CHECK.encode()
    start = b"\x18" + bytes([len(name)]) + name + b"\x18" + bytes([DIGEST_LENGTH])
    footer = len(data) - _TAIL - int.from_bytes(data[-_TAIL:-4], "little")
    found = data.rfind(start, max(footer, 0))
    return found + len(start) if found >= 0 else None
