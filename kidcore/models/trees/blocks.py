"""Queries, keys and values of a tree pack in; attention over ancestors only, at the price of the pairs that exist, out.

A dense [L, L] mask costs time for every pair of rows, and nearly all pairs of a pack are not allowed. The tree is cut into
contiguous blocks instead: a chain of single children (a schema) sees itself causally, everything below it sees it
whole, and small subtrees see themselves through a mask of their own. Partial results are joined by their log-sum-exps;
in the backward pass each block's share follows from the joined output and log-sum-exp, as in ring attention
(arXiv 2310.01889). CPU only: see kidcore.models.trees.flex for CUDA.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kidcore.models.trees.tree import Int64

# Subtrees of up to so many rows are one masked block. Smaller ones cost calls, larger ones pairs.
_LOCAL_ROWS = 192

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Block:
    """Queries [start, stop) see keys [key_start, key_stop), all of them, causally, or as `mask` says."""

    start: int
    stop: int
    key_start: int
    key_stop: int
    is_causal: bool = False
    mask: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """The blocks of a pack. Each row is in exactly one of `own`, and in any number of `above`."""

    num_rows: int
    own: list[Block]
    above: list[Block]

    @property
    def num_pairs(self) -> int:
        """Pairs of rows that are computed, masked ones included."""
        return sum((b.stop - b.start) * (b.key_stop - b.key_start) for b in (*self.own, *self.above))


def padded(tout: Int64) -> Int64:
    """The same tree with up to 63 rows behind it that see themselves alone: eight sizes an octave up to 1,024, then each 64th.

    Of ever new sizes the C library keeps ever more free blocks that nearly fit, and looks through them: behind 90 steps a student
    held a third more memory and took a seventh longer. oneDNN compiles each product for its number of rows, besides.
    """
    num_rows = len(tout)
    step = 1 << min(6, max(3, num_rows.bit_length() - 4))
    return np.concatenate([tout, np.arange(num_rows, -(-num_rows // step) * step) + 1])


def plan_blocks(tout: Int64, local_rows: int = _LOCAL_ROWS) -> Plan:
    """Cut the tree that `tout` describes (see kidcore.models.trees.tree) into blocks."""
    plan = Plan(len(tout), [], [])
    waiting = [(0, len(tout))]
    while waiting:
        # [start, end) is a run of sibling subtrees whose rows above are dealt with.
        start, end = waiting.pop()
        first_end = int(tout[start])
        if first_end - start > local_rows:
            if first_end < end:
                waiting.append((first_end, end))
            fork = _fork(tout, start, first_end)
            plan.own.append(Block(start, fork, start, fork, is_causal=True))
            if fork < first_end:
                plan.above.append(Block(fork, first_end, start, fork))
                waiting.append((fork, first_end))
            continue
        stop = first_end
        while stop < end and tout[stop] - start <= local_rows:
            stop = int(tout[stop])
        if stop < end:
            waiting.append((stop, end))
        plan.own.append(Block(start, stop, start, stop, mask=_local_mask(tout, start, stop)))
    return plan


def _fork(tout: Int64, start: int, end: int) -> int:
    """First row of [start, end), one subtree, that has a sibling; `end` when it is a single chain."""
    # A row continues the chain when it is its parent's only child: both subtrees end together.
    leaves = tout[start:end] != end
    return start + int(leaves.argmax()) if leaves.any() else end


def _local_mask(tout: Int64, start: int, stop: int) -> Tensor:
    row_L = torch.arange(start, stop)
    tout_L = torch.from_numpy(tout[start:stop])
    seen = (row_L[None, :] <= row_L[:, None]) & (row_L[:, None] < tout_L[None, :])
    return torch.where(seen, 0.0, -torch.inf)[None, None]


class _TreeAttention(torch.autograd.Function):
    """Shapes: H heads, G key-value heads, L rows, E size of a head; inputs [1, H, L, E] and [1, G, L, E]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float) -> Tensor:
        _, heads, rows, size = query.shape
        output = query.new_empty(1, rows, heads, size).transpose(1, 2)
        precise = torch.promote_types(query.dtype, torch.float32)
        total = query.new_empty(1, rows, heads, dtype=precise).transpose(1, 2)
        for block in plan.own:
            part, lse = _attend(block, query, key, value, scale)
            output[:, :, block.start : block.stop] = part
            total[:, :, block.start : block.stop] = lse
        for block in plan.above:
            part, lse = _attend(block, query, key, value, scale)
            here = slice(block.start, block.stop)
            joined = torch.logaddexp(total[:, :, here], lse)
            share = (lse - joined).exp()[..., None].to(part.dtype)
            output[:, :, here] = torch.lerp(output[:, :, here], part, share)
            total[:, :, here] = joined
        ctx.save_for_backward(query, key, value, output, total)
        ctx.plan, ctx.scale = plan, scale
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, total = ctx.saved_tensors
        groups = key.shape[1]
        # Heads that share keys are worked through one after the other, unless each has a copy of them.
        key, value = (x.repeat_interleave(query.shape[1] // groups, dim=1) for x in (key, value))
        # Laid out as [1, L, H, E], which is what the projections before them want.
        grads = [torch.zeros_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2) for _ in range(3)]
        for block in (*ctx.plan.own, *ctx.plan.above):
            here, there = slice(block.start, block.stop), slice(block.key_start, block.key_stop)
            mask = None if block.mask is None else block.mask.to(query.dtype)
            parts = _backward(
                grad_output[:, :, here],
                query[:, :, here],
                key[:, :, there],
                value[:, :, there],
                output[:, :, here],
                total[:, :, here],
                0.0,
                block.is_causal,
                attn_mask=mask,
                scale=ctx.scale,
            )
            for grad, part, where in zip(grads, parts, (here, there, there), strict=True):
                grad[:, :, where] += part
        to_query, to_key, to_value = grads
        return to_query, _sum_groups(to_key, groups), _sum_groups(to_value, groups), None, None


def _sum_groups(grad: Tensor, groups: int) -> Tensor:
    """The gradients of all heads, [1, H, L, E], added up over those that share keys, [1, G, L, E]."""
    return grad.view(1, groups, -1, *grad.shape[2:]).sum(2)


def _attend(block: Block, query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    here, there = slice(block.start, block.stop), slice(block.key_start, block.key_stop)
    mask = None if block.mask is None else block.mask.to(query.dtype)
    part, lse = _forward(
        query[:, :, here], key[:, :, there], value[:, :, there], 0.0, block.is_causal, attn_mask=mask, scale=scale
    )
    return part, lse


def attend_blocks(query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float) -> Tensor:
    """Attention over ancestors, [1, H, L, E]."""
    output: Tensor = _TreeAttention.apply(query, key, value, plan, scale)  # type: ignore[no-untyped-call]
    return output
