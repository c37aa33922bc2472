"""The prefix tree against its definition: each row sees itself and its ancestors, and nothing stands twice."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from kidcore.models.trees.attention import ancestor_mask
from kidcore.models.trees.tree import build_tree, shared_length
from tests.kidcore.models.trees.drawing import tree_tokens

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=9)


@given(SEQUENCES)
def test_tree_holds_each_prefix_once_and_each_sequence_whole(lists: list[list[int]]) -> None:
    sequences = [np.array(x, np.int32) for x in lists]
    tree = build_tree(sequences)
    assert tree.num_rows == tree_tokens(sequences)
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


@given(SEQUENCES, st.integers(1, 6), st.data())
def test_groups_share_long_beginnings_only_and_each_sequence_sees_itself(
    lists: list[list[int]], least: int, data: st.DataObject
) -> None:
    groups = [data.draw(st.integers(0, 2)) for _ in lists]
    sequences = [np.array(x, np.int32) for x in lists]
    tree = build_tree(sequences, groups=groups, least_shared=least)
    apart = sum(tree_tokens([x for x, g in zip(sequences, groups, strict=True) if g == group]) for group in set(groups))
    assert tree_tokens(sequences) <= tree.num_rows <= apart
    assert build_tree(sequences, groups=groups, least_shared=99).num_rows == apart
    mask = ancestor_mask(torch.from_numpy(tree.tout))[0, 0].numpy()
    for tokens, path in zip(lists, tree.paths, strict=True):
        assert tree.input_ids[path].tolist() == tokens
        assert tree.position_ids[path].tolist() == list(range(len(tokens)))
        assert np.flatnonzero(mask[path[-1]]).tolist() == path.tolist()
    # A group begins with rows of its own, or with `least` or more of those that lie before it.
    paths = list(zip(tree.paths, groups, strict=True))
    ends = {group: min(path[-1] for path, other in paths if other == group) for group in set(groups)}
    laid: set[int] = set()
    for group in sorted(ends, key=ends.__getitem__):
        own = [set(path.tolist()) for path, other in paths if other == group]
        first = next(path for path in own if max(path) == ends[group])
        assert not 0 < len(first & laid) < least
        laid.update(*own)


def test_databases_do_not_share_the_few_tokens_that_all_prompts_begin_with() -> None:
    """No row is seen by two databases, or one program of a GPU would do most of the backward pass."""
    head, schemas = np.arange(30), [np.full(100, number) for number in range(4)]
    prompts = [np.concatenate([head, schema, [question]]).astype(np.int32) for schema in schemas for question in range(3)]
    groups = [number // 3 for number in range(12)]
    tree = build_tree(prompts, groups=groups)
    assert tree.num_rows == 4 * (30 + 100 + 3)
    assert int((tree.tout - np.arange(tree.num_rows)).max()) == 133
    # What is worth sharing is shared: fixed examples in front of all schemas.
    assert build_tree(prompts, groups=groups, least_shared=30).num_rows == 30 + 4 * 103


def test_shared_length() -> None:
    def shared(left: list[int], right: list[int]) -> int:
        return shared_length(np.array(left, np.int32), np.array(right, np.int32))

    assert shared([], [1]) == 0
    assert shared([1, 2], [1, 2, 3]) == 2
    assert shared([1, 2, 3], [1, 5, 3]) == 1
    assert shared([4], [5]) == 0
