"""Queries, keys and values of a tree pack on a GPU in; attention over ancestors only, by FlexAttention, out.

Which blocks of 128 x 128 pairs hold any allowed pair, and which hold nothing else, follows from the smallest and largest
tout of a block, without looking at pairs. The mask is made inside the compiled function from tensors, and the rows are
a multiple of the block size, so that one compilation serves every pack.
Shapes: H heads, G key-value heads, L rows, E size of a head, N = L / 128 blocks.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kidcore.models.trees.tree import Int64, build_tree

BLOCK = 128
# Several models in one process need one each for their heads, precision, and with and without gradients.
_COMPILATIONS = 64
KERNEL_OPTIONS: Any = None
"""What FlexAttention's kernels are told, read when they are compiled; None: torch's own choice for the card."""
# A dimension of 1 is compiled apart from all others, so the smallest pack has two blocks.
_MIN_ROWS = 2 * BLOCK


@dataclass(frozen=True)
class FlexPlan:
    """The block mask of a pack, on its device. Rows behind the tree's see themselves alone."""

    tout_L: Tensor
    blocks: tuple[Tensor, ...]
    """(how many [1, 1, N], which [1, 1, N, N]) of the keys' blocks that are seen in part and whole, by query block; then
    of the queries' blocks, by key block."""

    @property
    def num_rows(self) -> int:
        return len(self.tout_L)


def make_flex_plan(tout: Int64, device: torch.device) -> FlexPlan:
    """The plan of the tree that `tout` describes (see kidcore.models.trees.tree), padded to whole blocks."""
    num_rows = max(_MIN_ROWS, -(-len(tout) // BLOCK) * BLOCK)
    padded = np.concatenate([tout, np.arange(len(tout), num_rows) + 1])
    part_NN, whole_NN = seen_blocks(padded)
    lists = [x for dense in (part_NN, whole_NN, part_NN.T, whole_NN.T) for x in _block_lists(dense)]
    tensors = [torch.from_numpy(x).to(device, non_blocking=True) for x in lists]
    return FlexPlan(torch.from_numpy(padded.astype(np.int32)).to(device, non_blocking=True), tuple(tensors))


def seen_blocks(tout: Int64) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Blocks (query block, key block) of which some pairs are allowed, and of which all are."""
    by_block = tout.reshape(-1, BLOCK)
    number = np.arange(len(by_block))
    below = number[:, None] > number[None, :]
    # Key k is seen by the rows up to tout[k]: by any row of a later block if tout passes that block's first row.
    some = below & (by_block.max(1)[None, :] > BLOCK * number[:, None])
    every = below & (by_block.min(1)[None, :] >= BLOCK * (number[:, None] + 1))
    return (some & ~every) | np.eye(len(by_block), dtype=bool), every


def _block_lists(dense_NN: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """How many blocks each row has, [1, 1, N], and which, first in each row, [1, 1, N, N]."""
    order = np.argsort(~dense_NN, axis=-1, kind="stable").astype(np.int32)
    return dense_NN.sum(-1, dtype=np.int32)[None, None], np.ascontiguousarray(order)[None, None]


def attend_flex(query: Tensor, key: Tensor, value: Tensor, plan: FlexPlan, scale: float) -> Tensor:
    """Attention over ancestors, [1, H, L, E]."""
    # Inside a compiled layer it is a part of what is compiled there.
    function = flex if torch.compiler.is_compiling() else compiled()
    return function(query, key, value, plan.tout_L, *plan.blocks, scale=scale)


@functools.cache
def compiled(backend: str = "inductor") -> Callable[..., Tensor]:
    """The compiled function. A graph break or too many compilations raise: uncompiled, all pairs would be computed."""
    allow_many_shapes()
    return torch.compile(flex, dynamic=True, fullgraph=True, backend=backend)


def allow_many_shapes() -> None:
    """Raise torch's limit of 8 compilations of one function."""
    limits: Any = torch.compiler.config
    limits.recompile_limit = max(limits.recompile_limit, _COMPILATIONS)


def relative_error(heads: int, groups: int, size: int, dtype: torch.dtype, device: torch.device, *, backward: bool) -> float:
    """Distance from dense attention on drawn inputs, relative to its size: of the output, and of the gradients."""
    generator = torch.Generator().manual_seed(0)
    shared, parts = np.zeros(3 * BLOCK, np.int32), [np.full(BLOCK // 2 + 7 * i, i, np.int32) for i in range(1, 5)]
    tout = build_tree([np.concatenate([shared[: (1 + i % 3) * BLOCK], part]) for i, part in enumerate(parts)]).tout
    plan = make_flex_plan(tout, device)
    query, key, value = (
        torch.randn(1, plan.num_rows, count, size, generator=generator).to(device, dtype).transpose(1, 2).requires_grad_(backward)
        for count in (heads, groups, groups)
    )
    row_L = torch.arange(plan.num_rows, device=device)
    mask = (row_L[None, :] <= row_L[:, None]) & (row_L[:, None] < plan.tout_L[None, :])
    key_HLE, value_HLE = (x.repeat_interleave(heads // groups, dim=1) for x in (key, value))
    with torch.set_grad_enabled(backward):
        found = [attend_flex(query, key, value, plan, size**-0.5)]
        expected = [scaled_dot_product_attention(query, key_HLE, value_HLE, attn_mask=mask)]
    if backward:
        grad = torch.randn(found[0].shape, generator=generator).to(device, dtype)
        found += torch.autograd.grad(found[0], (query, key, value), grad)
        expected += torch.autograd.grad(expected[0], (query, key, value), grad)
    pairs = [(x.detach().float(), y.detach().float()) for x, y in zip(found, expected, strict=True)]
    return max(float((x - y).norm() / y.norm()) for x, y in pairs)


def flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tout_L: Tensor,
    kv_num_blocks: Tensor,
    kv_indices: Tensor,
    full_kv_num_blocks: Tensor,
    full_kv_indices: Tensor,
    q_num_blocks: Tensor,
    q_indices: Tensor,
    full_q_num_blocks: Tensor,
    full_q_indices: Tensor,
    *,
    scale: float,
) -> Tensor:
    """FlexAttention under the mask that the tensors of a FlexPlan describe; to be compiled."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    def sees(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < tout_L[k])

    # The length in blocks tells the compiler that L is a multiple of the block size.
    length = BLOCK * kv_indices.shape[-1]
    mask = BlockMask(
        seq_lengths=(length, length),
        kv_num_blocks=kv_num_blocks,
        kv_indices=kv_indices,
        full_kv_num_blocks=full_kv_num_blocks,
        full_kv_indices=full_kv_indices,
        q_num_blocks=q_num_blocks,
        q_indices=q_indices,
        full_q_num_blocks=full_q_num_blocks,
        full_q_indices=full_q_indices,
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=sees,
    )
    output: Tensor = flex_attention(
        query,
        key,
        value,
        block_mask=mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        kernel_options=KERNEL_OPTIONS,
    )
    return output
