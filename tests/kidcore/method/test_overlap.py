"""The figures of an overlap, and its way through JSON."""

import pytest

from kidcore.method.overlap import Overlap


def test_figures_follow_from_sums_and_survive_json() -> None:
    overlap = Overlap.of([4, 3, 10, 5, 2.4])
    assert overlap is not None
    assert (overlap.first_inside, overlap.top_inside, overlap.mass_inside) == pytest.approx((0.75, 0.5, 0.6))
    assert str(overlap).startswith("the student's first choice is stored of the teacher at 75.0% of positions")
    assert Overlap.from_json(overlap.as_json()) == overlap
    assert Overlap.of([0, 0, 0, 0, 0.0]) is None
    assert Overlap.from_json({"positions": 1}) is None
    assert Overlap.from_json(None) is None
