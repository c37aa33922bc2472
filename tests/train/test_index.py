"""The index says what the shards say, is made once, is small, and caps what is held out without losing any of it."""

import dataclasses
import gc
import pickle
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.train.small import write_build
from tests.train.test_dataset import config
from train.data.dataset import Dataset, Source
from train.data.index import _KEPT, ExampleIndex, index_of
from train.data.sampler import are_held_out, is_drawn

ROWS, PARTS = 60, 5


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_build(tmp_path_factory.mktemp("build"), parts=PARTS, rows=ROWS)


def all_of(index: ExampleIndex) -> tuple[list[tuple[str, str]], list[str]]:
    parts = [index.part(number) for number in range(PARTS)]
    assert [len(part.train) for part in parts] == list(index.num_train)
    assert [len(part.held) for part in parts] == list(index.num_held)
    return [pair for part in parts for pair in part.train], [x for part in parts for x in part.held]


@pytest.mark.parametrize(("method", "answers"), [("sft", "all"), ("kid", "all"), ("seqkd", "all"), ("seqkd", "correct")])
def test_it_says_what_the_shards_say(source: Source, method: str, answers: str) -> None:
    settings = config(method=method, answers=answers)
    train, held = all_of(index_of(source.parts, settings, None))
    usable, there = {}, []
    for files in source.parts:
        usable |= {row["example_id"]: row["db_id"] for row in pq.read_table(files.one("ingest")).to_pylist() if not row["reason"]}
        answered = [
            {row["example_id"] for row in pq.read_table(path).to_pylist() if not row["reason"]} for path in files.of("generate")
        ]
        right = [
            {row["example_id"] for row in pq.read_table(path).to_pylist() if row["same_result"]}
            for path in files.of("generate_outcome")
        ]
        both = [some & same for some, same in zip(answered, right, strict=True)]
        there += set.union(*both) if answers == "correct" else set.intersection(*answered)
    drawn = {x for x in usable if is_drawn(settings.holdout, "holdout", settings.seed, x)}
    assert set(held) == drawn
    learnable = set(there) if method == "seqkd" else set(usable)
    assert dict(train) == {x: db_id for x, db_id in usable.items() if x in learnable - drawn}


def test_other_outcomes_of_the_same_answers_are_another_index(source: Source, tmp_path: Path) -> None:
    settings = config(method="seqkd", answers="correct")
    (tmp_path / "cache").mkdir()
    before = all_of(index_of(source.parts, settings, tmp_path / "cache"))
    changed = []
    for number, files in enumerate(source.parts):
        paths = []
        for path in files.of("generate_outcome"):
            table = pq.read_table(path)
            flipped = pa.array([not x for x in table["same_result"].to_pylist()])
            paths.append(tmp_path / f"other-{number}-{path.name}")
            pq.write_table(table.set_column(table.schema.get_field_index("same_result"), "same_result", flipped), paths[-1])
        changed.append(dataclasses.replace(files, files={**files.files, "generate_outcome": tuple(paths)}))
    after = all_of(index_of(changed, settings, tmp_path / "cache"))
    assert after == all_of(index_of(changed, settings, None)) != before


def test_it_is_made_once_and_small_and_its_name_is_what_travels(source: Source, tmp_path: Path) -> None:
    settings = config()
    index = index_of(source.parts, settings, tmp_path)
    (file,) = tmp_path.glob("*.arrow")
    before, said = file.stat(), all_of(index)
    assert file.stat().st_size < 100 * (sum(index.num_train) + sum(index.num_held))
    assert len(pickle.dumps(index)) < 400
    assert all_of(pickle.loads(pickle.dumps(index))) == said == all_of(index_of(source.parts, settings, None))
    again = index_of(source.parts, settings, tmp_path)
    assert file.stat().st_ino == before.st_ino
    assert all_of(again) == said
    file.write_bytes(file.read_bytes()[:-100])
    assert all_of(index_of(source.parts, settings, tmp_path)) == said
    for other in (config(holdout=0.3), config(seed=9), config(method="seqkd"), config(holdout_most=3)):
        index_of(source.parts, other, tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 5


def test_those_used_last_are_kept_and_those_in_use(source: Source, tmp_path: Path) -> None:
    def made(seed: int) -> Path:
        before = set(tmp_path.glob("*.arrow"))
        index_of(source.parts, config(seed=seed), tmp_path)
        (file,) = set(tmp_path.glob("*.arrow")) - before
        return file

    files = [made(seed) for seed in range(_KEPT)]
    used = index_of(source.parts, config(seed=0), tmp_path)
    said, first = all_of(used), files[0]
    index_of(source.parts, config(seed=1), tmp_path)
    assert made(100).exists()
    assert [file.exists() for file in files] == [True, True, False, *[True] * (_KEPT - 3)], "the third was used longest ago"
    for seed in range(101, 101 + _KEPT):
        made(seed)
    assert first.exists(), "it is mapped"
    assert len(list(tmp_path.glob("*.arrow"))) == _KEPT + 1
    assert all_of(pickle.loads(pickle.dumps(used))) == said
    del used
    gc.collect()
    made(200)
    assert len(list(tmp_path.glob("*.arrow"))) == _KEPT
    assert not first.exists()
    assert all_of(index_of(source.parts, config(seed=0), tmp_path)) == said


def test_what_is_held_out_is_drawn_one_by_one() -> None:
    ids = [f"train:{number}é" for number in range(500)]
    assert are_held_out(ids, 0.3, 7) == [is_drawn(0.3, "holdout", 7, x) for x in ids]


@pytest.mark.parametrize("most", [1, 7, 20])
def test_what_is_over_the_cap_is_trained_on(source: Source, most: int) -> None:
    whole, capped = (index_of(source.parts, config(holdout_most=n), None) for n in (1000, most))
    (train, held), (more, fewer) = all_of(whole), all_of(capped)
    assert len(fewer) == most < len(held)
    assert set(fewer) < set(held)
    assert {x for x, _ in more} == {x for x, _ in train} | set(held) - set(fewer)
    assert sum(map(bool, capped.num_held)) <= -(-most // min(whole.num_held))
    dataset = Dataset(source, config(holdout_most=most, batch_size=1))
    seen = [example.example_id for step in islice(dataset.steps(), dataset.num_examples) for example in step]
    assert sorted(seen) == sorted(x for x, _ in more)
    assert [example.example_id for part in dataset.held_out() for example in part] == fewer
