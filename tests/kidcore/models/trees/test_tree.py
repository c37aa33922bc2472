"""The prefix tree against its definition: each row sees itself and its ancestors, and nothing stands twice."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from kidcore.models.trees.attention import ancestor_mask
from kidcore.models.trees.tree import build_tree, shared_length, tree_tokens

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=9)


@given(SEQUENCES)
def test_tree_holds_each_prefix_once_and_each_sequence_whole(lists: list[list[int]]) -> None:
    sequences = [np.array(x, np.int32) for x in lists]
    tree = build_tree(sequences)
    prefixes = {tuple(x[: i + 1]) for x in lists for i in range(len(x))}
    assert tree.num_rows == len(prefixes) == tree_tokens(sequences)
    mask = ancestor_mask(torch.from_numpy(tree.tout))[0, 0].numpy()
    for tokens, path in zip(lists, tree.paths, strict=True):
        assert tree.input_ids[path].tolist() == tokens
        assert tree.position_ids[path].tolist() == list(range(len(tokens)))
        for depth, row in enumerate(path):
            assert np.flatnonzero(mask[row]).tolist() == path[: depth + 1].tolist()


@given(SEQUENCES)
def test_without_sharing_sequences_stand_end_to_end(lists: list[list[int]]) -> None:
    tree = build_tree([np.array(x, np.int32) for x in lists], share=False)
    assert tree.input_ids.tolist() == [token for x in lists for token in x]
    mask = ancestor_mask(torch.from_numpy(tree.tout))[0, 0].numpy()
    for path in tree.paths:
        assert np.flatnonzero(mask[path[-1]]).tolist() == path.tolist()


def test_shared_length() -> None:
    def shared(left: list[int], right: list[int]) -> int:
        return shared_length(np.array(left, np.int32), np.array(right, np.int32))

    assert shared([], [1]) == 0
    assert shared([1, 2], [1, 2, 3]) == 2
    assert shared([1, 2, 3], [1, 5, 3]) == 1
    assert shared([4], [5]) == 0
