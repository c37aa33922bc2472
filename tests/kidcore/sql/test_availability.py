"""Which databases can't be read, said before anything is paid for."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kidcore.errors import KidpipeError
from kidcore.sql.availability import lacking_databases
from kidcore.sql.datasets import DataSet, Example


@pytest.fixture
def databases(tmp_path: Path) -> Path:
    for name in ("pets", "cars"):
        (tmp_path / name).mkdir()
        with closing(sqlite3.connect(tmp_path / name / f"{name}.sqlite")) as connection:
            connection.execute("CREATE TABLE t (a)")
    return tmp_path


def examples(*db_ids: str, fault: str = "") -> list[Example]:
    return [Example(f"train:{number}", db_id, "q", "SELECT 1", fault=fault) for number, db_id in enumerate(db_ids)]


def test_where_all_are_there_nothing_is_said(databases: Path) -> None:
    asked = examples("pets", "cars", "pets")
    assert lacking_databases(DataSet(asked, databases), asked) is None
    assert lacking_databases(DataSet([], databases), []) is None


def test_some_that_are_not_there_are_counted_with_the_examples_about_them(databases: Path) -> None:
    asked = examples("gone", "pets", "gone", "also")
    lacking = lacking_databases(DataSet(asked, databases), asked)
    assert lacking is not None
    assert lacking.examples == {"also": 1, "gone": 2}
    assert (lacking.num_databases, lacking.num_examples) == (3, 4)
    assert str(lacking) == "2 of 3 databases can't be read (also, gone)"


def test_only_the_first_few_names_are_shown(databases: Path) -> None:
    asked = examples("pets", *(f"x{number}" for number in range(7)))
    lacking = lacking_databases(DataSet(asked, databases), asked)
    assert str(lacking) == "7 of 8 databases can't be read (x0, x1, x2, x3, x4, ...)"


def test_an_example_that_is_set_aside_anyway_asks_for_no_database(databases: Path) -> None:
    asked = [*examples("pets"), *examples("gone", fault="no text under question")]
    assert lacking_databases(DataSet(asked, databases), asked) is None
    only_bad = examples("gone", fault="no text")
    assert lacking_databases(DataSet(only_bad, databases), only_bad) is None


@pytest.mark.parametrize("damage", ["missing", "empty", "no database", "a folder"])
def test_where_none_can_be_read_it_is_an_error_that_names_the_place(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "pets" / "pets.sqlite"
    if damage != "missing":
        path.parent.mkdir()
    if damage == "empty":
        path.touch()
    elif damage == "no database":
        path.write_text("not a database at all")
    elif damage == "a folder":
        path.mkdir()
    asked = examples("pets", "pets")
    with pytest.raises(KidpipeError, match="none of the 1 databases can be read: pets") as caught:
        lacking_databases(DataSet(asked, tmp_path), asked)
    assert str(path) in caught.value.where
    assert "data.databases" in caught.value.fix


def test_of_many_that_cannot_be_read_a_few_places_are_named(tmp_path: Path) -> None:
    asked = examples(*(f"x{number}" for number in range(7)))
    with pytest.raises(KidpipeError, match="none of the 7 databases") as caught:
        lacking_databases(DataSet(asked, tmp_path), asked)
    assert caught.value.where.endswith("and 2 more")
    assert "x4.sqlite" in caught.value.where
    assert "x5.sqlite" not in caught.value.where
