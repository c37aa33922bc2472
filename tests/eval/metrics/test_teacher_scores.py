"""The teacher's stored scores: kept ones come back by answer, built ones are those of the shards, broken files are named."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.exposure import Scores
from eval.metrics.teacher_scores import built, keep, kept, key_of
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import ScoreRequest
from kidcore.store.manifest import read_manifest
from kidcore.store.store import Store
from tests.test_fixture_store import FIXTURE


def scores(seed: int, counts: list[int]) -> Scores:
    random = np.random.default_rng(seed)
    ids = [random.integers(0, 99, count).astype(np.int32) for count in counts]
    return Scores(ids, [random.normal(size=count).astype(np.float32) for count in counts], random.random(len(counts)).tolist())


def same(one: Scores, other: Scores) -> bool:
    parts = [(one.ids, other.ids), (one.logprobs, other.logprobs)]
    rows = all(len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)) for a, b in parts)
    return rows and one.outside == other.outside


@settings(max_examples=10, deadline=None)
@given(counts=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_kept_comes_back_and_only_what_was_asked_for(
    counts: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    rows = {f"k{number}": scores(number, row) for number, row in enumerate(counts)}
    keep(folder, rows)
    found = kept(folder, set(rows) | {"stranger"})
    assert found.keys() == rows.keys()
    assert all(same(found[key], rows[key]) for key in rows)
    assert kept(folder, {"k0"}).keys() == {"k0"}
    assert kept(folder, set()) == kept(folder / "none", {"k0"}) == {}


def test_each_measurement_has_a_file_of_its_own_and_the_same_one_again_the_same(tmp_path: Path) -> None:
    for rows in ({"a": scores(1, [2])}, {"b": scores(2, [1, 3])}, {"a": scores(1, [2])}):
        keep(tmp_path, rows)
    assert len(list(tmp_path.iterdir())) == 2
    assert kept(tmp_path, {"a", "b"}).keys() == {"a", "b"}


def test_an_answer_is_its_tokens_and_where_it_begins() -> None:
    ids = np.array([1, 2, 3, 4], np.int32)
    keys = {key_of(ScoreRequest(ids, 1)), key_of(ScoreRequest(ids, 2)), key_of(ScoreRequest(ids[:3], 1))}
    assert len(keys) == 3
    assert key_of(ScoreRequest(ids.copy(), 1)) in keys


def test_the_scores_of_a_build_are_found_by_the_answers_tokens() -> None:
    store = Store(FIXTURE / "artifacts")
    manifest = read_manifest(store)
    assert manifest is not None
    part = manifest.parts[0]
    (gold,) = part.files["gold_score"]
    row = pq.read_table(store.root / gold).slice(0, 1).to_pylist()[0]
    tokens = np.array([*row["prompt_ids"], *row["gold_ids"], manifest.facts.eos_id], np.int32)
    key = key_of(ScoreRequest(tokens, len(row["prompt_ids"])))
    found = built(store.root, manifest, {key, "stranger"}, {row["example_id"]})
    assert found.keys() == {key}
    assert list(map(len, found[key].ids)) == row["topk_count"]
    assert np.concatenate(found[key].ids).tolist() == row["topk_ids"]
    assert found[key].outside == row["tail"]
    assert len(found[key].ids) == len(row["gold_ids"]) + 1, "EOS is scored too"
    assert built(store.root, manifest, {key}, {"another"}) == {}, "shards without the examples are not searched"


def test_a_broken_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(KidpipeError, match="stored scores cannot be read") as caught:
        kept(tmp_path, {"a"})
    assert caught.value.where.endswith("broken.parquet")
    assert "remove the file" in caught.value.fix
