"""Examples in; packs out: the tensors of one forward pass, in which shared prompts stand once.

Shapes: B rows of a batch, L their length (tree and plain packs have B = 1), M supervised slots, K stored teacher ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kidcore.models.trees.layout import PackLayout
from kidcore.models.trees.tree import Int64, build_tree, shared_length, sort_key
from train.data.examples import Branch, TrainingExample
from train.loss.head import Targets


@dataclass(frozen=True)
class Pack:
    """One forward pass. In `targets`, row r of the trunk's output is (r // L, r % L)."""

    layout: PackLayout
    input_ids_BL: Tensor
    position_ids_BL: Tensor
    tout: Int64 | None
    """Tree and plain packs: first row that no longer sees each row, see kidcore.models.trees.tree. Stays on the CPU."""
    padding_BL: Tensor | None
    """Unpacked rows: 1 at tokens, 0 at padding."""
    targets: Targets

    def to(self, device: torch.device) -> "Pack":
        """The same on `device`."""
        # A copy that waits would wait for the work of the packs before.
        padding_BL = None if self.padding_BL is None else self.padding_BL.to(device, non_blocking=True)
        input_ids_BL, position_ids_BL = (x.to(device, non_blocking=True) for x in (self.input_ids_BL, self.position_ids_BL))
        return Pack(self.layout, input_ids_BL, position_ids_BL, self.tout, padding_BL, self.targets.to(device))

    @property
    def num_tokens(self) -> int:
        """Tokens through the trunk, padding included."""
        return self.input_ids_BL.numel()


def make_packs(examples: Sequence[TrainingExample], layout: PackLayout, pack_tokens: int) -> Iterator[Pack]:
    """Packs of at most `pack_tokens` tokens (one example that is longer gets its own), in a fixed order."""
    for _, members in plan_packs(examples, layout, pack_tokens):
        yield build_pack([examples[index] for index in members], layout)


def plan_packs(examples: Sequence[TrainingExample], layout: PackLayout, pack_tokens: int) -> list[tuple[int, list[int]]]:
    """Tokens and numbers of the examples of each pack that `make_packs` makes, without making it."""
    plan = _plan_rows if layout == "none" else _plan_tree if layout == "tree" else _plan_plain
    return plan(examples, pack_tokens)


def build_pack(examples: Sequence[TrainingExample], layout: PackLayout) -> Pack:
    """One pack of all these examples."""
    branches = [branch for example in examples for branch in example.branches]
    if layout == "none":
        return _padded_pack(branches)
    return _row_pack(branches, layout, [example.db_id for example in examples for _ in example.branches])


def _plan_tree(examples: Sequence[TrainingExample], pack_tokens: int) -> list[tuple[int, list[int]]]:
    """Cut the examples, sorted by prompt, where the budget is reached, and join what is left over.

    Sorting brings one database together, so that a cut inside a database costs its schema once more, and only there.
    """
    keys = [sort_key(example.branches[0].tokens[: example.branches[0].start]) for example in examples]
    order = sorted(range(len(examples)), key=lambda i: (examples[i].db_id, keys[i]))
    runs: list[tuple[int, list[int]]] = []
    previous: TrainingExample | None = None
    for index in order:
        example = examples[index]
        ordered = sorted((branch.tokens for branch in example.branches), key=sort_key)
        inner = sum(shared_length(left, right) for left, right in pairwise(ordered))
        alone = sum(len(tokens) for tokens in ordered) - inner
        shared = 0
        if previous is not None and previous.db_id == example.db_id:
            first = example.branches[0]
            shared = shared_length(previous.branches[0].tokens, first.tokens[: first.start])
        if runs and shared and runs[-1][0] + alone - shared <= pack_tokens:
            runs[-1] = (runs[-1][0] + alone - shared, [*runs[-1][1], index])
        else:
            runs.append((alone, [index]))
        previous = example
    return _fill_bins(runs, pack_tokens)


def _plan_plain(examples: Sequence[TrainingExample], pack_tokens: int) -> list[tuple[int, list[int]]]:
    sizes = [sum(len(branch.tokens) for branch in example.branches) for example in examples]
    return _fill_bins([(size, [index]) for index, size in enumerate(sizes)], pack_tokens)


def _fill_bins(runs: list[tuple[int, list[int]]], budget: int) -> list[tuple[int, list[int]]]:
    """First fit, longest first."""
    bins: list[tuple[int, list[int]]] = []
    for size, members in sorted(runs, key=lambda run: (-run[0], run[1])):
        for position, (used, inside) in enumerate(bins):
            if used + size <= budget:
                bins[position] = (used + size, inside + members)
                break
        else:
            bins.append((size, members))
    return bins


def _plan_rows(examples: Sequence[TrainingExample], pack_tokens: int) -> list[tuple[int, list[int]]]:
    """Neighbours in length share a batch, as far as rows times the longest row stay within the budget."""
    longest = [max(len(branch.tokens) for branch in example.branches) for example in examples]
    batches: list[tuple[int, list[int]]] = []
    num_rows = width = 0
    for index in sorted(range(len(examples)), key=lambda i: (-longest[i], i)):
        rows = len(examples[index].branches)
        if not batches or (num_rows + rows) * width > pack_tokens:
            batches.append((0, []))
            num_rows, width = 0, longest[index]
        num_rows += rows
        batches[-1] = (num_rows * width, [*batches[-1][1], index])
    return batches


def _row_pack(branches: list[Branch], layout: PackLayout, databases: list[str]) -> Pack:
    tree = build_tree([branch.tokens for branch in branches], share=layout == "tree", groups=databases)
    rows = [path[branch.start - 1 :] for branch, path in zip(branches, tree.paths, strict=True)]
    return Pack(
        layout=layout,
        input_ids_BL=torch.from_numpy(tree.input_ids)[None],
        position_ids_BL=torch.from_numpy(tree.position_ids)[None],
        tout=tree.tout,
        padding_BL=None,
        targets=collect_targets(branches, rows),
    )


def _padded_pack(branches: list[Branch]) -> Pack:
    width = max(len(branch.tokens) for branch in branches)
    input_ids, padding = (np.zeros((len(branches), width), np.int64) for _ in range(2))
    rows = []
    for number, branch in enumerate(branches):
        length = len(branch.tokens)
        input_ids[number, :length] = branch.tokens
        padding[number, :length] = 1
        rows.append(number * width + np.arange(branch.start - 1, length))
    positions = np.broadcast_to(np.arange(width), input_ids.shape).copy()
    return Pack(
        layout="none",
        input_ids_BL=torch.from_numpy(input_ids),
        position_ids_BL=torch.from_numpy(positions),
        tout=None,
        padding_BL=torch.from_numpy(padding),
        targets=collect_targets(branches, rows),
    )


def collect_targets(branches: Sequence[Branch], rows: Sequence[Int64]) -> Targets:
    """Join what the branches learn at each row: where a gold and an imperfect branch share a row, its logits serve both.

    `rows[i]` are the trunk rows that predict the supervised tokens of branch i. A row that several branches of one kind
    share becomes several slots, each with its own target.
    """
    gold_rows, gold_ids = _gather_gold(branches, rows)
    scored = [(branch, row) for branch, row in zip(branches, rows, strict=True) if branch.teacher is not None]
    teachers = [(branch.teacher, row) for branch, row in scored if branch.teacher is not None]
    kd_rows = np.concatenate([row for _, row in teachers]) if teachers else np.empty(0, np.int64)
    gold_keys, kd_keys = _slot_keys(gold_rows, len(branches)), _slot_keys(kd_rows, len(branches))
    keys = np.union1d(gold_keys, kd_keys)
    gold = np.full(len(keys), -1, np.int64)
    gold[np.searchsorted(keys, gold_keys)] = gold_ids
    count_N = np.concatenate([teacher.count for teacher, _ in teachers]).astype(np.int64) if teachers else kd_rows
    width = int(count_N.max(initial=0))
    ids = np.zeros((len(keys), width), np.int64)
    logprobs = np.zeros((len(keys), width), np.float32)
    count, tail = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.float32)
    is_gold = np.zeros(len(keys), np.bool_)
    if teachers:
        place = np.searchsorted(keys, kd_keys)
        stored_NK = np.arange(width) < count_N[:, None]
        flat_ids, flat_logprobs = np.zeros(stored_NK.shape, np.int64), np.zeros(stored_NK.shape, np.float32)
        flat_ids[stored_NK] = np.concatenate([teacher.ids for teacher, _ in teachers])
        flat_logprobs[stored_NK] = np.concatenate([teacher.logprobs for teacher, _ in teachers])
        ids[place] = np.where(stored_NK, flat_ids, flat_ids[:, :1])
        logprobs[place] = flat_logprobs
        count[place] = count_N
        tail[place] = np.concatenate([teacher.tail for teacher, _ in teachers])
        is_gold[place] = np.concatenate([np.full(len(row), branch.is_gold) for branch, row in scored])
    arrays = (keys // (len(branches) + 1), gold, count, ids, logprobs, tail, is_gold)
    return Targets(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


def _gather_gold(branches: Sequence[Branch], rows: Sequence[Int64]) -> tuple[Int64, Int64]:
    chosen = [(branch.targets, row) for branch, row in zip(branches, rows, strict=True) if branch.learn_gold]
    if not chosen:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return np.concatenate([row for _, row in chosen]), np.concatenate([ids for ids, _ in chosen]).astype(np.int64)


def _slot_keys(rows: NDArray[np.int64], num_branches: int) -> Int64:
    """One number for each (row, how many entries of that row came before)."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    first = np.searchsorted(ordered, ordered, side="left")
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows)) - first
    return rows * (num_branches + 1) + rank
