"""Shards of a part: rows joined by id, EOS behind them, and files that don't belong together named with what to do."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kidcore.errors import KidpipeError
from tests.train.small import EOS, part_files, write_build
from train.data.examples import TrainingExample
from train.data.shards import gold_example, mixed_example, read_columns, read_shard, read_usable_ids
from train.data.views import Views, correct_answers, plausible_views, turns


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    write_build(folder, parts=1, rows=14, views=2)
    return folder


def rewritten(build: Path, source: Path, folder: Path, change: object) -> Path:
    """A copy of a shard whose rows went through `change`."""
    table = pq.read_table(build / source)
    path = folder / source.name
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)  # type: ignore[operator]
    return path


def test_the_rows_of_a_shard_are_those_of_the_file(build: Path) -> None:
    files = part_files(build, 0)
    shard, rows = read_shard(files.of("score")[1], "score"), pq.read_table(files.of("score")[1]).to_pylist()
    assert shard.example_ids == [row["example_id"] for row in rows]
    for number, row in enumerate(rows):
        assert shard.row(row["example_id"]) == number
        for name in ("prompt_ids", "imperfect_ids", "topk_count", "topk_ids", "tail"):
            assert shard.columns[name][number].tolist() == row[name]


def test_a_shard_without_rows_and_rows_without_tokens_are_read(build: Path, tmp_path: Path) -> None:
    files = part_files(build, 0)
    empty = rewritten(build, files.one("gold_score"), tmp_path, lambda _rows: [])
    assert read_shard(empty, "gold_score").example_ids == []
    bare = rewritten(build, files.one("ingest"), tmp_path, lambda rows: [row | {"gold_ids": []} for row in rows])
    shard = read_shard(bare, "ingest")
    example = gold_example(shard, 0, EOS, learn_gold=True)
    assert example.branches[0].targets.tolist() == [EOS], "SQL of no tokens ends at once"


def test_what_was_set_aside_is_not_used(build: Path) -> None:
    path = part_files(build, 0).one("ingest")
    rows = pq.read_table(path).to_pylist()
    assert read_usable_ids(path) == [row["example_id"] for row in rows if row["reason"] is None]
    assert len(read_usable_ids(path)) == 12


@pytest.mark.parametrize("content", [b"", b"PAR1", b"nothing like it"])
def test_a_shard_that_cannot_be_read_is_named_with_the_command_that_makes_it_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "score.parquet"
    path.write_bytes(content)
    with pytest.raises(KidpipeError, match="a shard cannot be read") as caught:
        read_shard(path, "score")
    assert caught.value.where == str(path)
    assert "verify --deep" in caught.value.fix
    with pytest.raises(KidpipeError, match="a shard cannot be read"):
        read_columns(tmp_path / "missing.parquet", ["example_id"])


def test_a_row_that_is_missing_and_scores_of_another_length_are_refused(build: Path, tmp_path: Path) -> None:
    files = part_files(build, 0)
    shard = read_shard(files.one("gold_score"), "gold_score")
    with pytest.raises(KidpipeError, match="example stranger was ingested but is missing") as caught:
        shard.row("stranger")
    assert caught.value.where == str(files.one("gold_score"))
    path = rewritten(
        build, files.one("gold_score"), tmp_path, lambda rows: [row | {"topk_count": row["topk_count"][:-1]} for row in rows]
    )
    with pytest.raises(KidpipeError, match=r"\d+ teacher distributions for \d+ SQL tokens") as caught:
        gold_example(read_shard(path, "gold_score"), 0, EOS, learn_gold=True)
    assert shard.example_ids[0] in caught.value.where


def parts(example: TrainingExample) -> list[tuple[bool, bool, bool]]:
    return [(branch.is_gold, branch.learn_gold, branch.teacher is not None) for branch in example.branches]


def test_which_branches_an_example_has(build: Path) -> None:
    files = part_files(build, 0)
    views = [read_shard(path, "score") for path in files.of("score")]
    gold, ingest = read_shard(files.one("gold_score"), "gold_score"), read_shard(files.one("ingest"), "ingest")
    name = views[0].example_ids[3]
    imperfect = [(False, False, True)] * 2
    assert parts(mixed_example(views, gold, name, EOS, learn_gold=True)) == [(True, True, True), *imperfect]
    assert parts(mixed_example(views, gold, name, EOS, learn_gold=False)) == [(True, False, True), *imperfect]
    assert parts(mixed_example(views, None, name, EOS, learn_gold=True)) == [(True, True, False), *imperfect]
    assert parts(mixed_example(views, None, name, EOS, learn_gold=False)) == imperfect
    assert parts(mixed_example([], gold, name, EOS, learn_gold=False)) == [(True, False, True)]
    assert parts(gold_example(ingest, ingest.row(name), EOS, learn_gold=True)) == [(True, True, False)]
    answers = read_shard(files.of("generate")[0], "generate")
    example = gold_example(answers, answers.row(name), EOS, learn_gold=True)
    assert parts(example) == [(False, True, False)], "the teacher's answer is learnt, and is not gold"
    prompt = views[0].columns["prompt_ids"][3]
    for branch in mixed_example(views, gold, name, EOS, learn_gold=True).branches:
        assert branch.start == len(prompt)
        assert np.array_equal(branch.tokens[: branch.start], prompt)
        assert branch.targets[-1] == EOS


def test_choices_follow_what_became_of_each_query(build: Path) -> None:
    files = part_files(build, 0)
    outcomes = [pq.read_table(path).to_pylist() for path in files.of("outcome")]
    wanted: dict[str, list[int]] = {}
    for view, rows in enumerate(outcomes):
        for row in rows:
            if row["executes"] and not row["same_result"]:
                wanted.setdefault(row["example_id"], []).append(view)
    assert plausible_views(files, "score") == wanted
    allowed = [set(read_usable_ids(path)) for path in files.of("generate")]
    right = correct_answers(files, "generate")
    assert all(views and all(name in allowed[view] for view in views) for name, views in right.items())
    aside = [row["example_id"] for row in pq.read_table(files.of("generate")[0]).to_pylist() if row["reason"]]
    assert not any(name in aside for name in right), "an answer that was set aside is none, whatever it gave"


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("choices", [[], [4], [0, 1, 2], [1, 3, 5, 7]])
def test_epochs_take_turns_and_show_each_choice_alike(choices: list[int], number: int) -> None:
    shown = [turns(choices, epoch, number) for epoch in range(12)]
    assert all(len(set(views)) == len(views) == min(number, len(choices)) for views in shown)
    assert 2 * number > len(choices) or not set(shown[0]) & set(shown[1]), "the next epoch shows others where there are"
    counts = {choice: sum(choice in views for views in shown) for choice in choices}
    assert len(set(counts.values())) <= 1


def test_strict_views_show_nothing_without_a_choice_and_shards_are_read_when_asked_for(build: Path) -> None:
    files = part_files(build, 0).of("score")
    name = read_shard(files[0], "score").example_ids[0]
    for is_strict, count in ((True, 0), (False, 2)):
        views = Views(files, "score", {"other": [1]}, is_strict, 0, 2)
        assert len(views.of(name)) == count
    views = Views((files[0], Path("missing")), "score", {name: [0]}, True, 3, 1)
    assert [shard.path for shard in views.of(name)] == [files[0]]
