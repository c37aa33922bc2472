"""What people read when something is wrong."""

import pickle

import pytest

from kidcore.errors import KidpipeError, nearest


@pytest.mark.parametrize(
    ("where", "fix", "lines"),
    [
        ("", "", ["it broke"]),
        ("here", "", ["it broke", "  where: here"]),
        ("", "mend it", ["it broke", "  fix:   mend it"]),
        ("here", "mend it", ["it broke", "  where: here", "  fix:   mend it"]),
    ],
)
def test_a_line_for_each_thing_that_is_known(where: str, fix: str, lines: list[str]) -> None:
    error = KidpipeError("it broke", where=where, fix=fix)
    assert str(error).split("\n") == lines
    assert (error.what, error.where, error.fix) == ("it broke", where, fix)


def test_it_comes_whole_out_of_another_process() -> None:
    error = KidpipeError("it broke", where="here", fix="mend it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("mask.ration", ["mask.ratio", "mask.seed"], "mask.ratio"),
        ("xyz", ["mask.ratio"], ""),
        ("", ["a"], ""),
        ("a", [], ""),
        ("ab", (name for name in ("ab", "abc")), "ab"),
    ],
)
def test_the_nearest_name_or_none(name: str, known: list[str], found: str) -> None:
    assert nearest(name, known) == found


def test_how_near_it_has_to_be_can_be_said() -> None:
    assert nearest("mask", ["masking"], cutoff=0.7) == "masking"
    assert nearest("mask", ["masking"], cutoff=0.9) == ""
