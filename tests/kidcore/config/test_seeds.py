"""A row's random numbers follow from its name alone."""

import numpy as np
import pytest

from kidcore.config.seeds import row_rng


def first(*name: object) -> int:
    return int(row_rng(*name).integers(1 << 62))  # type: ignore[arg-type]


def test_the_same_name_gives_the_same_numbers_in_every_version() -> None:
    # What stores hold was drawn so: another number here makes every mask and sample another one.
    assert first(0, "mask.random", "train:0", 0) == 3766927258474255502
    assert first(7, "predict", "dev:Ł", 3) == 2706219469045787489


@pytest.mark.parametrize(
    "other", [(1, "mask", "a", 0), (0, "fill", "a", 0), (0, "mask", "b", 0), (0, "mask", "a", 1), (0, "mask", "", 0)]
)
def test_each_part_of_the_name_counts(other: tuple[int, str, str, int]) -> None:
    assert first(0, "mask", "a", 0) != first(*other)


def test_rows_do_not_depend_on_what_others_drew() -> None:
    ours, other = row_rng(0, "mask", "a", 0), row_rng(0, "mask", "b", 0)
    other.random(1000)
    np.testing.assert_array_equal(ours.random(5), row_rng(0, "mask", "a", 0).random(5))


def test_neighbouring_rows_look_independent() -> None:
    draws = np.array([row_rng(0, "mask", f"train:{number}", 0).random() for number in range(2000)])
    assert abs(draws.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.08
