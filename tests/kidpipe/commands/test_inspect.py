"""What `kidpipe inspect` says of a student's predictions at the holes."""

import numpy as np
import pytest

from kidpipe.commands.inspect import _overlap


def test_a_students_predictions_are_held_against_the_stored_scores_of_the_same_positions() -> None:
    predict = {
        "masked": np.array([1, 3]),
        "hole_ids": np.array([5, 7, 9, 4, 2, -1]),
        "hole_logprobs": np.log(np.array([0.5, 0.3, 0.1, 0.6, 0.2, 0.0]) + 1e-30),
    }
    score = {"topk_count": np.array([2, 2, 0, 4, 1]), "topk_ids": np.array([1, 2, 7, 8, 2, 3, 6, 8, 0])}
    overlap = _overlap(predict, score)
    assert overlap is not None
    # At hole 1 the stored 7 and 8 hold the second choice only; at hole 3 the stored 2, 3, 6 and 8 the second of all three.
    assert (overlap.positions, overlap.first, overlap.compared, overlap.inside) == (2, 0, 2 + 3, 1 + 1)
    assert overlap.mass_sum == pytest.approx(0.3 + 0.2)
    assert _overlap(predict, None) is None
