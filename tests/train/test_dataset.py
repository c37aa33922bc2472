"""The stream is a function of (seed, step), and the holdout never enters it."""

from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from kidcore.config.config import TrainSettings
from kidcore.errors import KidpipeError
from tests.train.small import EOS, write_build
from train.data.dataset import Dataset, Source
from train.data.examples import TrainingExample
from train.data.shards import PartFiles


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


def test_views_take_turns(source: Source) -> None:
    one, two = Dataset(source, config()), Dataset(source, config(views_per_step=2, gold_share=0.0))
    assert [one.views(epoch) for epoch in range(4)] == [[0], [1], [2], [0]]
    assert [two.views(epoch) for epoch in range(3)] == [[0, 1], [2, 0], [1, 2]]
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
