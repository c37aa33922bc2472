"""Names from content: always the same, never two alike, and never taken for a place or an id of the data's own."""

from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from kidcore.sql.example_ids import ContentNames, is_content_id, places


def content_ids(prefix: str, contents: Iterable[tuple[str, ...]]) -> Iterator[str]:
    return map(ContentNames(prefix).of, contents)


contents = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x?", "y?"]), st.sampled_from(["SELECT 1", "SELECT 2"])))


def test_a_name_is_the_same_in_every_version() -> None:
    rows = [("concert", "How many?", "SELECT 1")] * 2
    assert list(content_ids("train", rows)) == ["train:ltmgbblsdchf", "train:cqgbssgcbfmc"]


@given(contents)
def test_names_are_unique_and_the_order_does_not_matter(rows: list[tuple[str, str, str]]) -> None:
    ids = list(content_ids("train", rows))
    assert len(set(ids)) == len(ids)
    assert all(map(is_content_id, ids))
    assert sorted(content_ids("train", reversed(rows))) == sorted(ids)


@given(contents, st.data())
def test_taking_one_away_takes_one_name_away(rows: list[tuple[str, str, str]], data: st.DataObject) -> None:
    if rows:
        gone = data.draw(st.integers(0, len(rows) - 1))
        assert set(content_ids("train", rows[:gone] + rows[gone + 1 :])) < set(content_ids("train", rows))


def test_fields_do_not_run_together() -> None:
    assert len(set(content_ids("train", [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", "")]))) == 3


def test_places_and_ids_of_the_data_set_are_no_names_of_ours() -> None:
    for other in ("train:0", "train:123456789012", "train:abc", "dev:7", "", "train:"):
        assert not is_content_id(other)


def test_an_example_is_called_by_its_place_unless_it_has_an_id_of_its_own() -> None:
    train, others = (list(content_ids(prefix, [("d", "q", "s")])) for prefix in ("train", "train_others"))
    assert places([*train, "train:own", *train, *others]) == ["train:0", "train:own", "train:2", "train_others:0"]
