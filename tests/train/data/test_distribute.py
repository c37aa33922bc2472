"""Packs over processes: every pack is somebody's, the loads are alike, and the figures are those of the whole step."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kidcore.models.trees.layout import PackLayout
from tests.train.small import make_examples
from train.data.distribute import MicroBatcher, divide, idle_pack
from train.data.examples import count_supervised


@given(sizes=st.lists(st.integers(0, 5000), max_size=40), count=st.integers(1, 9))
def test_loads_are_alike_up_to_the_largest_pack(sizes: list[int], count: int) -> None:
    lists = divide(sizes, count)
    assert len(lists) == count
    assert sorted(number for numbers in lists for number in numbers) == list(range(len(sizes)))
    assert all(numbers == sorted(numbers) for numbers in lists)
    sums = [sum(sizes[number] for number in numbers) for numbers in lists]
    assert max(sums) - min(sums) <= max(sizes, default=0)


@pytest.mark.parametrize("layout", ["tree", "plain", "none"])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_every_process_knows_the_step_and_runs_its_own_packs(layout: PackLayout, world_size: int) -> None:
    examples = make_examples(np.random.default_rng(3), 3, 3, 2)
    shares = [MicroBatcher(layout, 90, rank, world_size).cut(examples) for rank in range(world_size)]
    whole = MicroBatcher(layout, 90).cut(examples)
    assert sorted(number for share in shares for number in share.numbers) == whole.numbers == list(range(len(whole.packs)))
    for share in shares:
        assert (share.num_examples, share.digest, share.counts) == (len(examples), whole.digest, count_supervised(examples))
        assert share.naive_tokens == sum(len(branch.tokens) for example in examples for branch in example.branches)
        assert len(share.packs) == len(share.numbers) <= share.rounds
        for number, pack in zip(share.numbers, share.packs, strict=True):
            assert torch.equal(pack.input_ids_BL, whole.packs[number].input_ids_BL)
    assert max(len(share.packs) for share in shares) == shares[0].rounds


def test_the_digest_is_of_the_examples_in_their_order() -> None:
    examples = make_examples(np.random.default_rng(0), 2, 2, 0)
    cut = MicroBatcher("plain", 100).cut
    assert cut(examples).digest == cut(list(examples)).digest
    assert len({cut(examples).digest, cut(examples[::-1]).digest, cut(examples[:-1]).digest}) == 3


@pytest.mark.parametrize("layout", ["tree", "plain", "none"])
def test_an_idle_pack_is_a_forward_pass_over_one_token(layout: PackLayout) -> None:
    pack = idle_pack(layout)
    assert (pack.num_tokens, pack.layout) == (1, layout)
    assert pack.targets.row_M.tolist() == [0]
    assert int(pack.targets.count_M.sum()) == 0
