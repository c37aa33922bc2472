"""What the slots of a pack learn, against lists made one token at a time; and how full packs are."""

from collections import defaultdict
from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.models.trees.layout import PackLayout
from tests.train.small import EOS, make_examples, make_teacher
from train.data.examples import Branch, TrainingExample
from train.data.packing import build_pack, collect_targets, plan_packs
from train.loss.head import Targets

Slot = tuple[int, int, tuple[object, ...] | None]


def slots_of(targets: Targets) -> list[Slot]:
    """Row, gold token (-1 for none) and teacher of each slot, in the pack's order."""
    found: list[Slot] = []
    for number in range(len(targets.row_M)):
        count = int(targets.count_M[number])
        assert targets.is_gold_M is not None
        ids, logprobs = targets.ids_MK[number], targets.logprobs_MK[number]
        assert not count or (ids[count:] == ids[0]).all(), "padding repeats the first id"
        stored = (ids[:count].tolist(), logprobs[:count].tolist(), float(targets.tail_M[number]), bool(targets.is_gold_M[number]))
        found.append((int(targets.row_M[number]), int(targets.gold_M[number]), stored if count else None))
    return found


def slow_slots(branches: list[Branch], rows: list[np.ndarray]) -> list[Slot]:
    """The same by the definition: a row's first gold token meets its first distribution, its second the second."""
    golds: dict[int, list[int]] = defaultdict(list)
    teachers: dict[int, list[tuple[object, ...]]] = defaultdict(list)
    for branch, path in zip(branches, rows, strict=True):
        for row, token in zip(path.tolist(), branch.targets.tolist(), strict=True):
            if branch.learn_gold:
                golds[row].append(token)
        if branch.teacher is not None:
            ends = np.cumsum(branch.teacher.count)
            for place, (row, count) in enumerate(zip(path.tolist(), branch.teacher.count.tolist(), strict=True)):
                part = slice(ends[place] - count, ends[place])
                logprobs = branch.teacher.logprobs[part].astype(np.float32).tolist()
                tail = float(branch.teacher.tail[place])
                teachers[row].append((branch.teacher.ids[part].tolist(), logprobs, tail, branch.is_gold))
    found: list[Slot] = []
    for row in sorted(golds.keys() | teachers.keys()):
        found += [(row, -1 if token is None else token, teacher) for token, teacher in zip_longest(golds[row], teachers[row])]
    return found


@st.composite
def branches(draw: st.DrawFn) -> tuple[list[Branch], list[np.ndarray]]:
    """Branches over few rows, so that many meet in one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    made, rows = [], []
    for _ in range(draw(st.integers(1, 5))):
        length = int(rng.integers(0, 4))
        teacher = make_teacher(rng, length + 1, 4) if rng.random() < 0.6 else None
        tokens = rng.integers(2, 60, size=2 + length).astype(np.int32)
        made.append(Branch(tokens, 2, EOS, bool(rng.random() < 0.6), teacher, is_gold=bool(rng.random() < 0.5)))
        rows.append(np.sort(rng.permutation(7)[: length + 1]))
    return made, rows


@settings(max_examples=80, deadline=None)
@given(case=branches())
def test_slots_are_those_of_the_definition(case: tuple[list[Branch], list[np.ndarray]]) -> None:
    assert slots_of(collect_targets(*case)) == slow_slots(*case)


@pytest.mark.parametrize("layout", ["tree", "plain", "none"])
def test_nothing_to_learn_is_a_pack_without_slots(layout: PackLayout) -> None:
    branch = Branch(np.array([3, 4], np.int32), 1, EOS, False, None)
    pack = build_pack([TrainingExample("e", "d", (branch,))], layout)
    assert pack.targets.row_M.shape == (0,)
    assert pack.targets.ids_MK.shape == (0, 0)
    assert pack.input_ids_BL.tolist() == [[3, 4]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), budget=st.integers(1, 300))
def test_packs_are_as_full_as_first_fit_makes_them(seed: int, budget: int) -> None:
    examples = make_examples(np.random.default_rng(seed), 3, 3, 1)
    plan = plan_packs(examples, "plain", budget)
    size = {number: sum(len(branch.tokens) for branch in example.branches) for number, example in enumerate(examples)}
    for used, members in plan:
        assert used == sum(size[number] for number in members)
        assert used <= budget or len(members) == 1
    openers = [size[members[0]] for _used, members in plan]
    assert openers == sorted(openers, reverse=True), "longest first"
    # What opened a later pack fitted into no earlier one.
    for earlier in range(len(plan)):
        for later in range(earlier + 1, len(plan)):
            assert plan[earlier][0] + size[plan[later][1][0]] > budget


def test_rows_of_a_batch_are_neighbours_in_length() -> None:
    examples = make_examples(np.random.default_rng(1), 4, 4, 1)
    longest = [max(len(branch.tokens) for branch in example.branches) for example in examples]
    plan = plan_packs(examples, "none", 200)
    order = [number for _tokens, members in plan for number in members]
    assert [longest[number] for number in order] == sorted(longest, reverse=True)
    for tokens, members in plan:
        rows = sum(len(examples[number].branches) for number in members)
        assert tokens == rows * max(longest[number] for number in members)
        assert tokens <= 200 or len(members) == 1


@pytest.mark.parametrize("layout", ["tree", "plain", "none"])
def test_no_examples_no_packs(layout: PackLayout) -> None:
    assert plan_packs([], layout, 100) == []
