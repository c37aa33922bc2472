"""Token sequences in; their prefix tree, laid out as one row of tokens, out.

Sequences that begin alike share the rows of what they share. A depth-first layout puts each row's descendants right
behind it, so row q sees row k exactly where k <= q < tout[k]: k is q itself or an ancestor.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

LEAST_SHARED = 64
"""Tokens that two groups of sequences must have in common to share them. All prompts begin with the same few tokens, those of
a chat with some thirty; as one root they would be keys of every query, and the program of FlexAttention's backward pass
that has these keys would take longer than all others. To repeat them for each database costs a few rows in a thousand."""


@dataclass(frozen=True)
class Tree:
    """N rows. `paths[i][j]` is the row of token j of sequence i; a row's position is its depth."""

    input_ids: Int64
    position_ids: Int64
    tout: Int64
    """First row behind the descendants of each row (a row's own number is its tin)."""
    paths: list[Int64]

    @property
    def num_rows(self) -> int:
        return len(self.input_ids)


def sort_key(tokens: Int32) -> bytes:
    """Bytes that sort as the token ids do."""
    return tokens.astype(">u4").tobytes()


def shared_length(left: Int32, right: Int32) -> int:
    """Tokens that two sequences have in common from their beginning."""
    size = min(len(left), len(right))
    differs = left[:size] != right[:size]
    first = int(differs.argmax()) if size else 0
    return first if size and differs[first] else size


def build_tree(
    sequences: Sequence[Int32],
    share: bool = True,
    groups: Sequence[Hashable] | None = None,
    least_shared: int = LEAST_SHARED,
) -> Tree:
    """The prefix tree of `sequences`; without `share`, the sequences end to end, none seeing another.

    With `groups`, one of each sequence, it is a tree a group: two of them share only beginnings of `least_shared` tokens or more.
    """
    groups = groups or [0] * len(sequences)
    order = _order(sequences, groups) if share else list(range(len(sequences)))
    total = sum(len(sequence) for sequence in sequences)
    input_ids, position_ids, tout = (np.empty(total, np.int64) for _ in range(3))
    paths: list[Int64] = [np.empty(0, np.int64)] * len(sequences)
    path, previous, end = np.empty(0, np.int64), np.empty(0, np.int32), 0
    group = groups[order[0]] if order else None
    for index in order:
        tokens = sequences[index]
        shared = shared_length(previous, tokens) if share else 0
        if groups[index] != group:
            group, shared = groups[index], shared if shared >= least_shared else 0
        # A prefix, once left, never comes back, or as other rows: those beyond what is shared have all their descendants.
        tout[path[shared:]] = end
        fresh = len(tokens) - shared
        rows = np.arange(end, end + fresh)
        input_ids[end : end + fresh] = tokens[shared:]
        position_ids[end : end + fresh] = np.arange(shared, len(tokens))
        path = np.concatenate([path[:shared], rows])
        paths[index] = path
        previous, end = tokens, end + fresh
    tout[path] = end
    return Tree(input_ids[:end].copy(), position_ids[:end].copy(), tout[:end].copy(), paths)


def _order(sequences: Sequence[Int32], groups: Sequence[Hashable]) -> list[int]:
    """Group by group, those that begin alike next to each other, and sorted within."""
    keys = [sort_key(sequence) for sequence in sequences]
    first: dict[Hashable, bytes] = {}
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        first.setdefault(groups[index], keys[index])
    rank = {group: number for number, group in enumerate(first)}
    return sorted(range(len(keys)), key=lambda index: (rank[groups[index]], keys[index]))
