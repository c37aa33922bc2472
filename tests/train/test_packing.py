"""Packs: the budget, the supervised slots, and the counts that the issue promises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.models.trees.layout import PackLayout
from tests.kidcore.models.trees.drawing import tree_tokens
from tests.train.small import EOS, make_examples
from train.data.examples import Branch, TrainingExample, count_supervised
from train.data.packing import make_packs, plan_packs


@pytest.mark.parametrize("layout", ["tree", "plain", "none"])
@given(seed=st.integers(0, 2**31), budget=st.integers(40, 400), views=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_every_supervised_token_is_a_slot_once(layout: PackLayout, seed: int, budget: int, views: int) -> None:
    examples = make_examples(np.random.default_rng(seed), 3, 4, views)
    packs = list(make_packs(examples, layout, budget))
    counts = count_supervised(examples)
    assert sum(int((pack.targets.gold_M >= 0).sum()) for pack in packs) == counts.mle
    assert sum(int((pack.targets.count_M > 0).sum()) for pack in packs) == counts.kd
    largest = {"tree": tree_tokens, "plain": lambda x: sum(map(len, x)), "none": lambda x: len(x) * max(map(len, x))}[layout]
    alone = max(largest([branch.tokens for branch in example.branches]) for example in examples)
    assert all(pack.num_tokens <= max(budget, alone) for pack in packs)
    planned = plan_packs(examples, layout, budget)
    assert sorted(index for _, members in planned for index in members) == list(range(len(examples)))
    # A tree may share more than its plan counted on, where runs of one pack happen to begin alike.
    assert all(pack.num_tokens <= tokens for pack, (tokens, _) in zip(packs, planned, strict=True))
    assert layout == "tree" or [pack.num_tokens for pack in packs] == [tokens for tokens, _ in planned]


@pytest.mark.parametrize("layout", ["tree", "plain", "none"])
def test_the_row_of_a_slot_stands_before_its_token(layout: PackLayout) -> None:
    examples = make_examples(np.random.default_rng(5), 1, 3, 2)
    branch = examples[0].branches[0]
    expected = sorted(
        (int(b.tokens[b.start - 1 + i]), b.start - 1 + i, int(token))
        for example in examples
        for b in example.branches
        if b.learn_gold
        for i, token in enumerate(b.targets)
    )
    (pack,) = make_packs(examples, layout, 10_000)
    ids, positions = pack.input_ids_BL.flatten(), pack.position_ids_BL.flatten()
    is_gold = pack.targets.gold_M >= 0
    rows = pack.targets.row_M[is_gold]
    found = zip(ids[rows].tolist(), positions[rows].tolist(), pack.targets.gold_M[is_gold].tolist(), strict=True)
    assert sorted(found) == expected
    assert branch.targets[-1] == EOS


def test_gold_and_imperfect_share_slots_as_far_as_they_agree() -> None:
    """One row of logits serves both terms until the first rewritten token."""
    rng = np.random.default_rng(0)
    (example,) = make_examples(rng, 1, 1, 1)
    gold, imperfect = example.branches
    same = Branch(gold.tokens, gold.start, EOS, False, imperfect.teacher)
    (pack,) = make_packs([TrainingExample("e", "d", (gold, same))], "tree", 1000)
    assert pack.num_tokens == len(gold.tokens)
    assert len(pack.targets.row_M) == gold.num_supervised
    assert bool(((pack.targets.gold_M >= 0) & (pack.targets.count_M > 0)).all())


def test_a_cut_inside_a_database_costs_its_schema_only_there() -> None:
    schema = np.arange(2, 52, dtype=np.int32)
    examples = [
        TrainingExample(f"e{i}", "d", (Branch(np.append(schema, [i % 7 + 2, i + 2]).astype(np.int32), 51, EOS, True, None),))
        for i in range(20)
    ]
    whole = list(make_packs(examples, "tree", 10_000))
    halves = list(make_packs(examples, "tree", 75))
    assert len(whole) == 1
    assert sum(pack.num_tokens for pack in halves) <= whole[0].num_tokens + 51 * (len(halves) - 1)


def test_a_schema_of_400_tokens_with_8_questions_of_4_views_costs_an_eighth() -> None:
    """The layout of DESIGN.md 6: 1,920 tokens in place of 15,040, but for what views share of their SQL."""
    rng = np.random.default_rng(0)
    schema = rng.integers(2, 60, size=400)
    examples = []
    for i in range(8):
        prompt = np.concatenate([schema, [i + 2], rng.integers(2, 60, size=29)])
        views = [np.concatenate([prompt, [v + 2], rng.integers(2, 60, size=39)]).astype(np.int32) for v in range(4)]
        examples.append(TrainingExample(f"e{i}", "d", tuple(Branch(x, len(prompt), EOS, True, None) for x in views)))
    (pack,) = make_packs(examples, "tree", 10_000)
    assert pack.num_tokens == 400 + 8 * 30 + 8 * 4 * 40
    assert sum(len(b.tokens) for e in examples for b in e.branches) == 15_040
    assert torch.equal(pack.input_ids_BL[0, :400], torch.from_numpy(schema))
