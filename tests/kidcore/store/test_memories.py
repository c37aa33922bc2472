"""What a store remembers beside its shards: it may be lost or damaged at any time, and nothing is worse for it than forgotten."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from kidcore.method.knowledge import GoldKnowledge
from kidcore.store.frames import read_frame
from kidcore.store.kept_knowledge import keep_knowledge, read_knowledge, read_memory, write_memory
from kidcore.store.makers import read_summary, write_summary
from kidcore.store.manifest import Facts, Manifest, PartRecord, StageRecord
from kidcore.store.model_names import model_names, remember_model
from kidcore.store.prompts import prompt_folder
from kidcore.store.store import Shard, Store

KNOWN = GoldKnowledge(10, 5.0, 8, 2, 1.0)
DAMAGE = ["", "{", "\0" * 40, "[]", "3", '"text"', "null", '{"a": 1}', '{"a": ["b", 3]}', '{"manifest": "m", "stages": 3}']


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def manifest(*names: str, stages: dict[str, list[str]] | None = None) -> Manifest:
    files = {stage: tuple(some) for stage, some in (stages or {}).items()}
    records = {stage: StageRecord(1, {}, 1) for stage in files}
    return Manifest.of(Facts(0, 1, "".join(names), 10), records, {}, (PartRecord(0, 3, {}, files),))


def test_knowledge_is_kept_for_its_manifest_alone(store: Store) -> None:
    ours, other = manifest("ours"), manifest("other")
    assert read_knowledge(store, ours.digest) is None
    keep_knowledge(store, ours, None)
    assert not (store.root / "knowledge.json").exists()
    keep_knowledge(store, ours, KNOWN)
    assert read_knowledge(store, ours.digest) == KNOWN
    assert read_knowledge(store, other.digest) is read_knowledge(store, None) is None
    keep_knowledge(store, ours, GoldKnowledge(1, 1.0, 1, 1, 1.0))
    assert read_knowledge(store, ours.digest) == KNOWN, "one manifest has one knowledge"
    keep_knowledge(store, other, GoldKnowledge(1, 1.0, 1, 1, 1.0))
    assert read_knowledge(store, ours.digest) is None


def test_a_model_is_known_by_each_name_that_it_had(store: Store) -> None:
    assert model_names(store, "local:1") == []
    for identity, name in (("local:1", "b"), ("local:1", "a"), ("local:2", "c"), ("local:1", "b"), ("local:1", "")):
        remember_model(store, identity, name)
    assert model_names(store, "local:1") == ["a", "b"]
    assert model_names(store, "local:2") == ["c"]
    assert model_names(store, "local:3") == []


@pytest.mark.parametrize("text", DAMAGE)
@pytest.mark.parametrize(
    ("file", "read", "write"),
    [
        (
            "knowledge.json",
            lambda store: read_knowledge(store, manifest().digest),
            lambda store: keep_knowledge(store, manifest(), KNOWN),
        ),
        ("models.json", lambda store: model_names(store, "a"), lambda store: remember_model(store, "a", "name")),
        ("made.json", lambda store: read_summary(store, "m"), lambda store: write_summary(store, "m", {"mask": []})),
    ],
    ids=["knowledge", "models", "made"],
)
def test_a_damaged_memory_is_an_empty_one_and_is_written_anew(
    store: Store, text: str, file: str, read: Callable[[Store], Any], write: Callable[[Store], Any]
) -> None:
    store.root.mkdir(parents=True)
    (store.root / file).write_text(text)
    assert not read(store)
    write(store)
    assert read(store)


def test_what_is_remembered_of_other_models_survives_a_strange_entry(store: Store) -> None:
    store.write_json("models.json", {"odd": 3, "local:1": ["a"]})
    remember_model(store, "local:1", "b")
    assert model_names(store, "local:1") == ["a", "b"]
    assert model_names(store, "odd") == []


def test_a_store_that_takes_nothing_is_read_without_a_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "artifacts")
    write_memory(store, "x.json", {"a": 1})
    with pytest.raises(OSError, match="Not a directory"):
        store.write_json("x.json", {"a": 1})


def test_memory_that_is_not_there_is_none(store: Store) -> None:
    assert read_memory(store, "nothing.json") is None
    store.write_json("x/y.json", [1])
    assert read_memory(store, "x/y.json") == [1]


def test_prompts_lie_where_the_settings_of_ingest_say(store: Store) -> None:
    settings = {"ingest.template": "compact", "ingest.max_prompt_tokens": 100}
    assert prompt_folder(store, settings) == prompt_folder(store, dict(reversed(settings.items())))
    assert prompt_folder(store, settings) != prompt_folder(store, settings | {"ingest.template": "ddl"})
    assert prompt_folder(store, settings).parent == store.root / "prompts"


def shards(store: Store, stage: str, *tables: pa.Table) -> list[str]:
    return [store.commit(stage, f"{number:032x}", table, {}).file for number, table in enumerate(tables)]


def test_a_frame_has_the_rows_of_a_stage_in_the_order_of_its_parts(store: Store) -> None:
    made = shards(store, "mask", pa.table({"x": [3, 1], "y": ["a", "b"]}), pa.table({"x": [2], "y": ["c"]}))
    found = manifest(stages={"mask": made, "empty": []})
    assert read_frame(store, found, "mask")["x"].to_list() == [3, 1, 2]
    assert read_frame(store, found, "mask", ["y"]).to_dict(as_series=False) == {"y": ["a", "b", "c"]}
    assert read_frame(store, found, "mask", most_files=1)["x"].to_list() == [3, 1]
    for stage in ("empty", "unknown"):
        assert read_frame(store, found, stage).equals(pl.DataFrame())


@pytest.mark.parametrize(
    ("name", "shard"),
    [
        (f"{'a' * 32}.7.{'b' * 32}.parquet", Shard("mask", "a" * 32, 7, "b" * 32)),
        (f"{'a' * 32}.0.{'b' * 32}.parquet", Shard("mask", "a" * 32, 0, "b" * 32)),
        (f"{'A' * 32}.7.{'b' * 32}.parquet", None),
        (f"{'a' * 31}.7.{'b' * 32}.parquet", None),
        (f"{'a' * 32}.-7.{'b' * 32}.parquet", None),
        (f"{'a' * 32}.{'9' * 19}.{'b' * 32}.parquet", None),
        (f"{'a' * 32}.7.{'b' * 32}.parquet\n", None),
        (f".tmp-x-{'a' * 32}.7.{'b' * 32}.parquet", None),
    ],
)
def test_a_name_is_a_shards_or_it_is_not(name: str, shard: Shard | None) -> None:
    assert Shard.parse("mask", name) == shard
    if shard:
        assert shard.file == f"mask/{name}"
