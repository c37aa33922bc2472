"""Files of shards: what their footers say, that it changes no digest, and that no byte changes unseen."""

import json
import shutil
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kidcore.store.column_descriptions import COLUMNS
from kidcore.store.provenance import Provenance
from kidcore.store.schemas import schema_of
from kidcore.store.shard_files import PROVENANCE, is_whole, read_footer, rows_digest, write_shard
from kidcore.store.stages import STAGE_TABLE
from kidcore.store.store import Shard, Store

COUNTS = {"out": 2, "in": 2}
OLD = Path(__file__).parents[2] / "fixtures" / "store_v1" / "artifacts"
MADE_FROM = Provenance(
    stage="mask",
    version=1,
    view=1,
    settings={"mask.ratio": 0.5, "mask.seed": 0},
    in_key=("mask.ratio",),
    inputs={"ingest": "a" * 32},
    reads={},
)


def rows(stage: str = "mask") -> pa.Table:
    """Two rows of a stage: zeros, and lists of one."""
    columns = []
    for field in schema_of(stage):
        element = field.type.value_type if pa.types.is_list(field.type) else field.type
        value = "0" if pa.types.is_string(element) else 0
        one = pa.array([value] * 2, pa.string() if value == "0" else pa.int32()).cast(element)
        columns.append(pa.ListArray.from_arrays([0, 1, 2], one) if pa.types.is_list(field.type) else one)
    return pa.table(columns, names=schema_of(stage).names).cast(schema_of(stage))


@pytest.mark.parametrize("stage", STAGE_TABLE)
def test_every_column_of_every_stage_is_described_in_its_file(stage: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "x.parquet", rows(stage), COUNTS, {})
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert {field.name: field.metadata[b"description"].decode() for field in schema} == {
        name: COLUMNS[name] for name in schema_of(stage).names
    }
    assert schema.remove_metadata().equals(schema_of(stage))


def test_the_footer_says_what_the_key_was_made_of(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shard = store.commit("mask", MADE_FROM.key, rows(), COUNTS, provenance=MADE_FROM.as_json())
    said = store.provenance(shard)
    assert (said["key"], said["digest"], said["rows"], said["stage"]) == (shard.key, shard.digest, 2, "mask")
    assert Provenance.from_json(said).key == shard.key
    assert Provenance.from_json(said | {"inputs": {"ingest": "b" * 32}}).key != shard.key
    assert store.counts(shard) == COUNTS


def test_others_read_it_too(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_shard(path, rows(), COUNTS, MADE_FROM.as_json())
    expected = json.loads(json.dumps(MADE_FROM.as_json()))
    assert json.loads(pl.read_parquet_metadata(path)[PROVENANCE]) == expected
    sql = f"SELECT decode(value) FROM parquet_kv_metadata('{path}') WHERE decode(key) = '{PROVENANCE}'"
    assert json.loads(duckdb.sql(sql).fetchall()[0][0]) == expected
    assert pl.read_parquet(path).height == 2


def test_what_is_said_of_rows_changes_the_file_and_not_their_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = (store.commit("mask", key * 32, rows(), COUNTS, provenance={"settings": key}) for key in "12")
    assert first.digest == second.digest == rows_digest(rows().replace_schema_metadata(None), {"in": 2, "out": 2})
    assert store.path(first).read_bytes() != store.path(second).read_bytes()
    assert store.is_as_written(first)
    assert store.is_as_written(second)
    before = store.path(first).read_bytes()
    store.commit("mask", first.key, rows(), COUNTS, provenance={"settings": "1"})
    assert store.path(first).read_bytes() == before, "the same thing made again is the same file"


def test_rows_of_before_have_the_digest_that_they_had() -> None:
    """So a shard of an old store that is made again makes nothing stale."""
    paths = sorted(OLD.glob("*/*.parquet"))
    assert paths
    for path in paths:
        shard = Shard.parse(path.parent.name, path.name)
        assert shard is not None
        footer = read_footer(path)
        # As it was written: Parquet reads the elements of lists under another name.
        table = pq.read_table(path).cast(schema_of(shard.stage))
        assert (rows_digest(table, footer.counts), footer.provenance) == (shard.digest, {})
        assert footer.schema.names == table.schema.names
        assert is_whole(path, shard.digest, {"key": shard.key}), "a file without provenance is its rows' plain file"


def test_no_byte_changes_unseen(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shard = store.commit("mask", MADE_FROM.key, rows(), COUNTS, provenance=MADE_FROM.as_json())
    path = store.path(shard)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not store.is_as_written(shard), place
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert not store.is_as_written(shard), length
    path.write_bytes(whole)
    assert store.is_as_written(shard)


def test_a_whole_file_under_another_shards_name_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = (store.commit("mask", key * 32, rows(), {"in": int(key)}) for key in "12")
    shutil.copy(store.path(first), store.path(second))
    assert not store.is_as_written(second)
    assert store.is_as_written(first)
