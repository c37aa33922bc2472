"""Processes that share decoded shards see the same examples, decode each shard once, and survive what happens to the files."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.train.small import write_build
from tests.train.test_dataset import config
from train.data.dataset import Dataset, Source
from train.data.examples import TrainingExample
from train.data.shards import read_columns, read_shard
from train.data.shared_rows import SharedRows, drop_shared, shared_in


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_build(tmp_path_factory.mktemp("build"), parts=4, rows=12)


def values(example: TrainingExample) -> list[object]:
    found: list[object] = [example.example_id, example.db_id]
    for branch in example.branches:
        teacher = branch.teacher
        arrays = [] if teacher is None else [teacher.count, teacher.ids, teacher.logprobs, teacher.tail]
        found += [branch.start, branch.learn_gold, *(np.asarray(array).tolist() for array in (branch.tokens, *arrays))]
    return found


@pytest.mark.parametrize("method", ["sft", "kid", "fkd", "seqkd"])
def test_the_stream_and_the_holdout_are_the_same(source: Source, tmp_path: Path, method: str) -> None:
    settings = config(method=method, views_per_step=1, imperfect_share=0.6, gold_share=0.5)
    own, shared = Dataset(source, settings), Dataset(replace(source, cache=tmp_path), settings, is_shared=True)
    for left, right in zip(islice(own.steps(1), 30), islice(shared.steps(1), 30), strict=True):
        assert list(map(values, left)) == list(map(values, right))
    assert [[values(e) for e in part] for part in own.held_out()] == [[values(e) for e in part] for part in shared.held_out(0.4)]
    assert list((tmp_path / "rows").rglob("*.arrow"))


def test_a_shard_is_decoded_once_and_again_where_its_file_is_damaged(source: Source, tmp_path: Path) -> None:
    shared, path = SharedRows(tmp_path, 8), source.parts[0].of("score")[0]
    plain = read_shard(path, "score")
    times = []
    for damage in (None, None, b"", b"ARROW1\0\0 and nothing else"):
        if damage is not None:
            next(tmp_path.glob("*.arrow")).write_bytes(damage)
        rows = read_shard(path, "score", shared)
        assert rows.example_ids == plain.example_ids
        for name, column in plain.columns.items():
            assert np.array_equal(rows.columns[name].values, column.values)
            assert np.array_equal(rows.columns[name].offsets, column.offsets)
        (file,) = tmp_path.glob("*.arrow")
        times.append(file.stat().st_ino)
    assert times[0] == times[1]
    assert not rows.columns["tail"].values.flags.owndata


def test_what_another_run_drops_meanwhile_is_read_all_the_same(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_file, path = pa.ipc.new_file, source.parts[0].of("score")[0]

    def dropped(*arguments: object) -> object:
        drop_shared(tmp_path)
        return new_file(*arguments)

    monkeypatch.setattr(pa.ipc, "new_file", dropped)
    assert shared_in(tmp_path, 8).table(path, ["example_id"], read_columns).equals(read_columns(path, ["example_id"]))
    monkeypatch.undo()
    assert shared_in(tmp_path, 8).table(path, ["example_id"], read_columns).equals(read_columns(path, ["example_id"]))
    assert len(list(tmp_path.glob("rows/*/*.arrow"))) == 1


def test_few_files_are_kept_and_what_is_mapped_stays(source: Source, tmp_path: Path) -> None:
    shared = SharedRows(tmp_path, 3)
    paths = [path for part in source.parts for path in part.of("score")]
    read = [(path, shared.table(path, ["example_id"], read_columns)) for path in paths]
    assert len(list(tmp_path.glob("*.arrow"))) == 3
    for path, table in read:
        assert table.equals(read_columns(path, ["example_id"]))
