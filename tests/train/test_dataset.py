"""The stream is a function of (seed, step), and the holdout never enters it."""

from collections import Counter, defaultdict
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from tests.train.small import EOS, write_build
from train.data.dataset import Dataset, Source
from train.data.examples import TrainingExample
from train.data.shards import PartFiles
from train.data.views import turns


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_build(tmp_path_factory.mktemp("build"), parts=5, rows=20, views=3)


def config(**changes: object) -> TrainSettings:
    values = {"method": "kid", "batch_size": 8, "group_size": 3, "buffer_shards": 2, "holdout": 0.2}
    return TrainSettings.model_validate(values | changes)


def take(dataset: Dataset, first: int, count: int) -> list[list[str]]:
    return [[example.example_id for example in step] for step in islice(dataset.steps(first), count)]


def same(left: TrainingExample, right: TrainingExample) -> bool:
    return left.example_id == right.example_id and all(
        np.array_equal(a.tokens, b.tokens) and a.learn_gold == b.learn_gold
        for a, b in zip(left.branches, right.branches, strict=True)
    )


@pytest.mark.parametrize("method", ["sft", "seqkd", "fkd", "kid", "gkd"])
def test_starting_at_a_step_equals_running_up_to_it(source: Source, method: str) -> None:
    settings = config(method=method, imperfect_share=0.6, gold_share=0.5)
    whole = list(islice(Dataset(source, settings).steps(), 40))
    for first in (0, 1, 7, 8, 9, 17, 33):
        part = list(islice(Dataset(source, settings).steps(first), 40 - first))
        assert all(same(a, b) for x, y in zip(whole[first:], part, strict=True) for a, b in zip(x, y, strict=True))


def test_an_epoch_sees_every_usable_example_once_and_no_held_out_one(source: Source) -> None:
    dataset = Dataset(source, config(batch_size=1))
    held = {example.example_id for part in dataset.held_out() for example in part}
    epoch = [x for step in take(dataset, 0, dataset.num_examples) for x in step]
    assert len(held) == dataset.num_held_out > 0
    assert len(set(epoch)) == len(epoch)
    assert held.isdisjoint(epoch)
    # 2 of 20 rows a part are set aside by write_build.
    assert len(held) + len(epoch) == 5 * 18
    second = [x for step in take(dataset, dataset.num_examples, dataset.num_examples) for x in step]
    assert sorted(second) == sorted(epoch)
    assert second != epoch


def test_another_seed_is_another_order_and_another_holdout(source: Source) -> None:
    first, second = Dataset(source, config()), Dataset(source, config(seed=1))
    assert take(first, 0, 3) != take(second, 0, 3)
    assert [e.example_id for p in first.held_out() for e in p] != [e.example_id for p in second.held_out() for e in p]


def test_groups_share_a_database_and_windows_mix_their_parts(source: Source) -> None:
    dataset = Dataset(source, config(batch_size=1, group_size=4, method="sft"))
    examples = [step[0] for step in islice(dataset.steps(), dataset.num_examples)]
    changes = sum(a.db_id != b.db_id for a, b in pairwise(examples))
    assert changes < len(examples) / 2
    parts = [example.example_id.split("-")[0] for example in examples[:24]]
    assert len(set(parts)) == 2


_SHOWING_ALL: list[dict[str, object]] = [
    {"epochs": 3.0},
    {"epochs": 2.2},
    {"epochs": 1.0, "views_per_step": 3},
    {"epochs": 1.0, "method": "sft"},
]
_SHOWING_LESS: list[dict[str, object]] = [
    {"epochs": 1.0},
    {"epochs": 1.0, "method": "seqkd"},
    {"epochs": 1.0, "views_per_step": 2},
]


def test_a_run_too_short_for_all_views_is_told(source: Source) -> None:
    told = [(settings, Dataset(source, config(**settings)).said_of_views) for settings in _SHOWING_ALL + _SHOWING_LESS]
    assert [settings for settings, said in told if not said] == _SHOWING_ALL
    assert "has 3 queries to show, and this run comes to 2 of them" in told[-1][1]


def test_views_take_turns(source: Source) -> None:
    two = Dataset(source, config(views_per_step=2, gold_share=0.0))
    assert [turns([0, 1, 2], epoch, 1) for epoch in range(4)] == [[0], [1], [2], [0]]
    assert [turns([0, 1, 2], epoch, 2) for epoch in range(3)] == [[0, 1], [2, 0], [1, 2]]
    assert [turns([4, 7], epoch, 3) for epoch in range(2)] == [[4, 7], [4, 7]]
    assert turns([], 1, 2) == []
    (step,) = islice(two.steps(), 1)
    assert [len(example.branches) for example in step] == [3] * 8
    assert [b.learn_gold for b in step[0].branches] == [True, False, False]
    assert [b.teacher is None for b in step[0].branches] == [True, False, False]


def test_a_mixture_shows_its_shares_and_always_something(source: Source) -> None:
    dataset = Dataset(source, config(batch_size=1, views_per_step=2, imperfect_share=0.7, gold_share=0.4, mle_weight=0.0))
    examples = [step[0] for step in islice(dataset.steps(), 10 * dataset.num_examples)]
    kinds = Counter(tuple((b.learn_gold, b.teacher is not None) for b in example.branches) for example in examples)
    scored = (False, True)
    views, gold, both = kinds.pop((scored, scored)), kinds.pop((scored,)), kinds.pop((scored, scored, scored))
    assert not kinds
    for count, share in ((gold, 0.3), (views, 0.7 * 0.6), (both, 0.7 * 0.4)):
        assert abs(count / len(examples) - share) < 4 * (share * (1 - share) / len(examples)) ** 0.5


@pytest.mark.parametrize("choice", ["prefer_plausible", "only_plausible"])
def test_queries_that_execute_and_err_are_chosen_and_take_turns(source: Source, choice: str) -> None:
    dataset = Dataset(source, config(batch_size=1, view_choice=choice, views_per_step=2, gold_share=0.0))
    plausible: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    every: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for part in source.parts:
        for query, became in zip(part.of("score"), part.of("outcome"), strict=True):
            sql = {row["example_id"]: tuple(row["imperfect_ids"]) for row in pq.read_table(query).to_pylist()}
            for row in pq.read_table(became).to_pylist():
                every[row["example_id"]].add(sql[row["example_id"]])
                if row["executes"] and not row["same_result"]:
                    plausible[row["example_id"]].add(sql[row["example_id"]])
    seen: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for (example,) in islice(dataset.steps(), 3 * dataset.num_examples):
        views = [b.tokens[b.start :] for b in example.branches if not b.is_gold]
        seen[example.example_id] |= {tuple(view.tolist()) for view in views}
        if not views:
            (gold,) = example.branches
            assert gold.teacher is not None, "what has nothing to show is taught the divergence on gold"
    rest = every if choice == "prefer_plausible" else defaultdict(set)
    assert {0, 1, 2} <= {len(plausible[example_id]) for example_id in seen}
    for example_id, views in seen.items():
        assert views == (plausible[example_id] or rest[example_id])


def test_rejection_sampling_keeps_questions_with_a_correct_answer(source: Source) -> None:
    every, correct = (Dataset(source, config(batch_size=1, method="seqkd", answers=answers)) for answers in ("all", "correct"))
    right: dict[str, set[int]] = defaultdict(set)
    for part in source.parts:
        for sample, (answers, became) in enumerate(zip(part.of("generate"), part.of("generate_outcome"), strict=True)):
            kept = {row["example_id"] for row in pq.read_table(answers).to_pylist() if row["reason"] is None}
            same = {row["example_id"] for row in pq.read_table(became).to_pylist() if row["same_result"]}
            for example_id in kept & same:
                right[example_id].add(sample)
    seen: dict[str, set[int]] = defaultdict(set)
    for (example,) in islice(correct.steps(), 2 * correct.num_examples):
        (branch,) = example.branches
        seen[example.example_id].add(_sample(source, example.example_id, branch.tokens[branch.start :].tolist()))
    held = {example.example_id for part in every.held_out() for example in part}
    assert seen == {example_id: samples for example_id, samples in right.items() if example_id not in held}
    assert 0 < correct.num_examples < every.num_examples


def test_a_teacher_without_a_correct_answer_is_told_apart_from_data_set_aside(source: Source, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.parquet"
    became = pq.read_table(source.parts[0].of("generate_outcome")[0])
    place = became.schema.get_field_index("same_result")
    pq.write_table(became.set_column(place, became.schema.field(place), [[False] * became.num_rows]), wrong)
    files = {**source.parts[0].files, "generate_outcome": (wrong, wrong)}
    with pytest.raises(KidpipeError, match="no example to train on") as caught:
        Dataset(Source([PartFiles(0, files)], EOS, "d"), config(method="seqkd", answers="correct"))
    assert "no answer gives gold's result" in caught.value.fix


def test_few_rows_that_are_all_held_out_are_said_to_be(source: Source, tmp_path: Path) -> None:
    rows = pq.read_table(source.parts[0].of("ingest")[0], filters=pc.field("reason").is_null())
    fixes = set()
    for number in range(rows.num_rows):
        pq.write_table(rows.slice(number, 1), tmp_path / f"{number}.parquet")
        single = Source([PartFiles(0, {"ingest": (tmp_path / f"{number}.parquet",)})], EOS, "d")
        try:
            assert Dataset(single, config(method="sft", holdout=0.49)).num_held_out == 0
        except KidpipeError as error:
            fixes.add(error.fix)
    assert fixes == {"all 1 examples are held out: lower train.holdout, or set it to 0"}


def _sample(source: Source, example_id: str, answer: list[int]) -> int:
    """The number of the answer, the first of those alike."""
    part = source.parts[int(example_id.partition("-")[0][1:])]
    rows = [{row["example_id"]: row["generated_ids"] for row in pq.read_table(path).to_pylist()} for path in part.of("generate")]
    return [row[example_id] for row in rows].index(answer)


def test_a_run_that_looks_at_outcomes_needs_them(source: Source) -> None:
    without = [PartFiles(p.part, {k: v for k, v in p.files.items() if "outcome" not in k}) for p in source.parts]
    for settings in (config(view_choice="only_plausible"), config(method="seqkd", answers="correct")):
        with pytest.raises(KidpipeError, match="build holds none") as caught:
            Dataset(Source(without, EOS, "d"), settings)
        assert "outcome.execute" in caught.value.fix


def test_seqkd_trains_on_answers_and_holds_out_gold(source: Source) -> None:
    sft, seqkd = (Dataset(source, config(batch_size=1, method=method)) for method in ("sft", "seqkd"))
    # One answer a part was set aside; all of its samples are.
    assert 0 < sft.num_examples - seqkd.num_examples <= 5
    golds = {step[0].example_id: step[0] for step in islice(sft.steps(), sft.num_examples)}
    answers = {step[0].example_id: step[0] for step in islice(seqkd.steps(), seqkd.num_examples)}
    assert answers.keys() <= golds.keys()
    for example_id, example in answers.items():
        (branch,), (gold,) = example.branches, golds[example_id].branches
        assert branch.learn_gold
        assert branch.tokens[branch.start :].tolist() == np.roll(gold.tokens[gold.start :], 1).tolist()
    held = [[e.branches[0].tokens.tolist() for part in dataset.held_out() for e in part] for dataset in (sft, seqkd)]
    assert held[0] == held[1]


def test_without_mle_no_gold_is_learnt_but_the_holdout_still_has_it(source: Source) -> None:
    dataset = Dataset(source, config(mle_weight=0.0))
    (step,) = islice(dataset.steps(), 1)
    assert not any(b.learn_gold for example in step for b in example.branches)
    assert all(example.branches[0].learn_gold for part in dataset.held_out() for example in part)


def test_branch_lengths_and_eos(source: Source) -> None:
    (step,) = islice(Dataset(source, config(method="rkd")).steps(), 1)
    for example in step:
        (branch,) = example.branches
        assert branch.teacher is not None
        assert len(branch.teacher.tail) == branch.num_supervised == len(branch.targets)
        assert branch.targets[-1] == EOS
        assert len(branch.teacher.ids) == branch.teacher.count.sum()


def test_number_of_steps(source: Source) -> None:
    dataset = Dataset(source, config(epochs=1.5))
    assert dataset.num_steps == -(-round(1.5 * dataset.num_examples) // 8)
    assert Dataset(source, config(max_steps=3)).num_steps == 3


def test_what_the_build_lacks_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="wants 4 views a step"):
        Dataset(source, config(views_per_step=4))
    bare = Source([PartFiles(0, {"ingest": source.parts[0].of("ingest")})], EOS, "d")
    with pytest.raises(KidpipeError, match="build holds none"):
        Dataset(bare, config(method="fkd"))
    broken = tmp_path / "ingest.parquet"
    broken.write_bytes(source.parts[0].one("ingest").read_bytes()[:200])
    with pytest.raises(KidpipeError, match="cannot be read"):
        Dataset(Source([PartFiles(0, {"ingest": (broken,)})], EOS, "d"), config(method="sft"))


def test_a_row_missing_from_a_score_shard_is_named(source: Source) -> None:
    first, second = source.parts[:2]
    mixed = Source([PartFiles(0, {**first.files, "score": second.of("score")})], EOS, "d")
    with pytest.raises(KidpipeError, match=r"example p0-.* was ingested but is missing"):
        next(Dataset(mixed, config()).steps())
