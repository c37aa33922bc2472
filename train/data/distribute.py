"""The examples of a step in; this process's share of the step's packs out.

Every process cuts the same examples into the same packs and takes some of them, so that what a step computes depends on
the number of processes in its rounding only.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kidcore.models.trees.layout import PackLayout
from train.data.examples import Branch, Counts, TrainingExample, count_supervised
from train.data.packing import Pack, build_pack, plan_packs


@dataclass(frozen=True)
class MicroBatches:
    """The packs of one step that one process runs, and what it must know of the others'."""

    num_examples: int
    digest: str
    """Of the ids of the step's examples, in order."""
    counts: Counts
    """Supervised tokens of the whole step."""
    naive_tokens: int
    """Tokens that one row a sequence would put through the trunk, without padding, over the whole step."""
    packs: list[Pack]
    numbers: list[int]
    """The number of each of `packs` among all packs of the step."""
    rounds: int
    """Packs of the process that has most."""


@dataclass(frozen=True)
class MicroBatcher:
    """How steps are cut into packs, and which of them process `rank` takes."""

    layout: PackLayout
    pack_tokens: int
    rank: int = 0
    world_size: int = 1

    def cut(self, examples: list[TrainingExample]) -> MicroBatches:
        """The share of one step."""
        plan = plan_packs(examples, self.layout, self.pack_tokens)
        shares = divide([tokens for tokens, _ in plan], self.world_size)
        mine = shares[self.rank]
        ids = "\0".join(example.example_id for example in examples)
        return MicroBatches(
            num_examples=len(examples),
            digest=hashlib.blake2b(ids.encode(), digest_size=8).hexdigest(),
            counts=count_supervised(examples),
            naive_tokens=sum(len(branch.tokens) for example in examples for branch in example.branches),
            packs=[build_pack([examples[index] for index in plan[number][1]], self.layout) for number in mine],
            numbers=mine,
            rounds=max(map(len, shares)),
        )


def idle_pack(layout: PackLayout) -> Pack:
    """One token and its successor: what a process runs, at a weight of zero, when others have a pack more."""
    branch = Branch(np.zeros(1, np.int32), 1, 0, learn_gold=True, teacher=None)
    return build_pack([TrainingExample("", "", (branch,))], layout)


def divide(sizes: Sequence[int], count: int) -> list[list[int]]:
    """The numbers of `sizes` in `count` lists of about equal sums: each, largest first, to the list that holds least."""
    lists: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count
    for number in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = sums.index(min(sums))
        lists[least].append(number)
        sums[least] += sizes[number]
    return [sorted(numbers) for numbers in lists]
