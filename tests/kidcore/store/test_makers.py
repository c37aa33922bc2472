"""What made a shard: as the log says last, whatever else stands in it, and never in the shard itself."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from kidcore import atomic
from kidcore.models.backends.facts import EngineFacts
from kidcore.store.log import SHARDS, append
from kidcore.store.makers import Maker, makers_of, mixtures, read_summary, this_maker, write_summary
from kidcore.store.store import Shard, Store

VLLM = EngineFacts("vllm", "0.32.0", "cpu", "float32")
REFERENCE = EngineFacts("transformers", "5.19.0", "cpu", "float32")
LINE = {"stage": "score", "rows": 1, "seconds": 1.0, "settings": "x"}


def log(store: Store, *records: tuple[str, EngineFacts | None]) -> None:
    for key, engine in records:
        append(store.root / SHARDS, LINE | {"key": key, "made": this_maker(engine).as_json()})


def entry(engine: EngineFacts | None, shards: int, kidpipe: str = "0.1.0") -> dict[str, object]:
    return {"shards": shards, **Maker(kidpipe, engine).as_json()}


def test_the_last_line_counts_and_broken_or_older_ones_are_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    log(store, ("a", REFERENCE), ("b", None), ("c", VLLM), ("a", VLLM))
    append(tmp_path / SHARDS, LINE | {"key": "d"})
    with (tmp_path / SHARDS).open("ab") as file:
        file.write(
            b'\xff\x00\n[1]\n{"key": "c", "made": {"engine"\n{"key": "a", "made": {"kidpipe": "1", "engine": {"name": 1}}}\n'
        )
    found = makers_of(store, {"a", "b", "d"})
    assert {key: maker.engine for key, maker in found.items()} == {"a": VLLM, "b": None}


def test_the_summary_is_that_of_its_manifest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    log(store, ("a", VLLM), ("b", REFERENCE), ("c", VLLM))
    shards = {"predict": [Shard("predict", key, 1, "0") for key in "abc"], "mask": [Shard("mask", "lost", 1, "0")]}
    assert write_summary(store, "digest", shards) == [f"predict mix engines: shards 2 by {VLLM}, 1 by {REFERENCE}"]
    kept = read_summary(store, "digest")
    assert [(item["shards"], item["engine"]["name"]) for item in kept["predict"]] == [(2, "vllm"), (1, "transformers")]
    assert kept["mask"] == []
    assert read_summary(store, "another") == {}
    assert json.loads((tmp_path / "made.json").read_text()) == {"manifest": "digest", "stages": kept}


@pytest.mark.parametrize("damage", [5, [5], [{"shards": "many"}], [{"shards": 1, "engine": {"name": 1}}], {"shards": 1}])
def test_a_damaged_summary_is_none(tmp_path: Path, damage: object) -> None:
    store = Store(tmp_path)
    store.write_json("made.json", {"manifest": "digest", "stages": {"mask": [], "score": damage}})
    assert read_summary(store, "digest") == {}


def test_gold_and_imperfect_scores_have_to_come_from_one_engine() -> None:
    found = mixtures(
        {"gold_score": [entry(VLLM, 2)], "score": [entry(REFERENCE, 4), entry(None, 1)], "predict": [entry(VLLM, 4)]}
    )
    assert found == [f"gold_score and score mix engines: shards 4 by {REFERENCE}, 2 by {VLLM}"]


def test_another_kidpipe_or_another_model_is_no_mixture() -> None:
    by_student = EngineFacts("vllm", "0.32.0", "cpu", "bfloat16")
    assert mixtures({"score": [entry(VLLM, 2), entry(VLLM, 2, "0.2.0")], "predict": [entry(by_student, 4)]}) == []


def test_a_kill_before_the_shard_is_seen_loses_no_maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, key = Store(tmp_path), "1" * 32

    def die(*_: Path) -> None:
        raise KeyboardInterrupt

    def commit(engine: EngineFacts) -> Shard:
        line = LINE | {"key": key, "made": this_maker(engine).as_json()}
        return store.commit("score", key, pa.table({"x": [1]}), {}, line)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "settle", die)
        with pytest.raises(KeyboardInterrupt):
            commit(VLLM)
    assert store.scan("score") == {}
    assert makers_of(store, {key})[key].engine == VLLM, "the line is there first"
    commit(REFERENCE)
    assert set(store.scan("score")) == set(makers_of(store, {key})) == {key}
    assert makers_of(store, {key})[key].engine == REFERENCE, "the last one made it"
