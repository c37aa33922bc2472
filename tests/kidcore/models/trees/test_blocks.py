"""Tree attention against dense attention under the ancestor mask: output and gradients, however the tree is cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kidcore.models.trees.attention import ancestor_mask
from kidcore.models.trees.blocks import _TreeAttention, padded, plan_blocks
from kidcore.models.trees.tree import build_tree
from tests.kidcore.models.trees.drawing import draw_tree


@given(
    seed=st.integers(0, 2**31),
    sequences=st.integers(1, 12),
    alphabet=st.integers(1, 5),
    longest=st.integers(2, 40),
    local_rows=st.sampled_from([1, 2, 5, 16, 1000]),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 3)]),
)
@settings(max_examples=60, deadline=None)
def test_output_and_gradients_are_the_dense_ones(
    seed: int, sequences: int, alphabet: int, longest: int, local_rows: int, heads: tuple[int, int]
) -> None:
    tree = draw_tree(seed, sequences, alphabet, longest)
    torch.manual_seed(seed)
    shapes = [(1, tree.num_rows, heads[0], 8), (1, tree.num_rows, heads[1], 8), (1, tree.num_rows, heads[1], 8)]
    inputs = [torch.randn(shape).transpose(1, 2).requires_grad_() for shape in shapes]
    query, key, value = inputs
    grouped = [x.repeat_interleave(heads[0] // heads[1], dim=1) for x in (key, value)]
    mask = ancestor_mask(torch.from_numpy(tree.tout))
    expected = torch.nn.functional.scaled_dot_product_attention(query, *grouped, attn_mask=mask, scale=0.3)
    grad = torch.randn_like(expected)
    found = _TreeAttention.apply(query, key, value, plan_blocks(tree.tout, local_rows), 0.3)
    assert torch.allclose(found, expected, atol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        assert torch.allclose(mine, theirs, atol=5e-5)


@given(seed=st.integers(0, 2**31), sequences=st.integers(1, 12), local_rows=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_blocks_cover_each_allowed_pair_once(seed: int, sequences: int, local_rows: int) -> None:
    tree = draw_tree(seed, sequences, 3, 30)
    plan = plan_blocks(tree.tout, local_rows)
    seen = np.zeros((tree.num_rows, tree.num_rows), np.int64)
    for block in (*plan.own, *plan.above):
        part = np.ones((block.stop - block.start, block.key_stop - block.key_start), np.int64)
        if block.is_causal:
            part = np.tril(part)
        if block.mask is not None:
            part = (block.mask[0, 0] == 0).numpy().astype(np.int64)
        seen[block.start : block.stop, block.key_start : block.key_stop] += part
    assert (seen == ancestor_mask(torch.from_numpy(tree.tout))[0, 0].numpy()).all()
    assert sorted(row for block in plan.own for row in range(block.start, block.stop)) == list(range(tree.num_rows))


@given(seed=st.integers(0, 2**31), sequences=st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_rows_behind_a_tree_see_themselves_alone_and_nobody_sees_them(seed: int, sequences: int) -> None:
    tree = draw_tree(seed, sequences, 3, 30)
    seen = ancestor_mask(torch.from_numpy(padded(tree.tout)))[0, 0]
    assert torch.equal(seen[: tree.num_rows, : tree.num_rows], ancestor_mask(torch.from_numpy(tree.tout))[0, 0])
    assert torch.equal(seen[tree.num_rows :].nonzero()[:, 1], torch.arange(tree.num_rows, len(seen)))
    assert not seen[: tree.num_rows, tree.num_rows :].any()


def test_padded_trees_have_few_sizes() -> None:
    sizes = [len(padded(np.full(rows, rows, np.int64))) for rows in range(1, 4097)]
    assert all(rows <= size <= rows + min(63, max(7, rows // 8)) for rows, size in enumerate(sizes, 1))
    assert len({size for size in sizes if 512 < size <= 1024}) == 8
    assert len(set(sizes)) < 100


def test_a_schema_with_many_questions_costs_a_fraction_of_the_dense_pairs() -> None:
    rng = np.random.default_rng(0)
    schemas = [rng.integers(2, 50, size=350) for _ in range(4)]
    sequences = [np.concatenate([s, rng.integers(2, 50, size=80)]).astype(np.int32) for s in schemas for _ in range(8)]
    tree = build_tree(sequences)
    allowed = int(ancestor_mask(torch.from_numpy(tree.tout)).sum())
    pairs = plan_blocks(tree.tout).num_pairs
    assert pairs < 1.6 * allowed
    assert pairs < 0.2 * tree.num_rows**2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    tree = draw_tree(3, 8, 3, 30)
    query, key, value = (torch.randn(1, 2, tree.num_rows, 16, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = ancestor_mask(torch.from_numpy(tree.tout))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    found = _TreeAttention.apply(query, key, value, plan_blocks(tree.tout, 8), 0.25)
    tolerance = 3e-2 if dtype == torch.bfloat16 else 1e-6
    assert torch.allclose(found, expected, atol=tolerance)
    found.sum().backward()
    assert query.grad is not None
    assert query.grad.dtype == dtype
