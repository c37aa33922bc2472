"""Where predictions are executed: databases are looked up once, suites are found by db_id, and what is missing is refused."""

import shutil
from pathlib import Path

import pytest

from eval.databases import Databases
from eval.spider.exact_match import ExactMatcher
from eval.spider.official import OfficialMatcher
from kidcore.errors import KidpipeError
from kidcore.sql.database import database_of
from tests.eval.worlds import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("databases"))


def test_a_database_is_looked_up_once_and_keeps_the_data_s_name(world: Path) -> None:
    asked: list[str] = []

    def find(db_id: str) -> Path:
        asked.append(db_id)
        return world

    databases = Databases(find)
    assert databases.of("stage") is databases.of("stage")
    assert (asked, databases.of("stage").db_id) == (["stage"], "stage")
    given = database_of(world, "own")
    assert Databases(lambda _db_id: given).of("other") is given, "a database that is one already is taken as it is"


def test_a_suite_is_the_databases_in_a_folder_by_name(world: Path, tmp_path: Path) -> None:
    for name in ("variant_01.sqlite", "variant_00.sqlite", "notes.txt", ".candidate"):
        (tmp_path / "world").mkdir(exist_ok=True)
        shutil.copyfile(world, tmp_path / "world" / name)
    databases = Databases(lambda _db_id: world, tmp_path)
    found = databases.suite_databases("world")
    assert databases.suite_databases("world") is found, "looked for once"
    assert [database.path.name for database in found] == ["variant_00.sqlite", "variant_01.sqlite"]
    assert {database.db_id for database in found} == {"world"}
    assert databases.suite_databases("nowhere") == []
    assert Databases(lambda _db_id: world).suite_databases("world") == []


@pytest.mark.parametrize("db_id", ["..", ".", "", "a/../world", "world/", "\ud800", "x" * 300])
def test_a_db_id_never_leads_out_of_the_suite(world: Path, tmp_path: Path, db_id: str) -> None:
    shutil.copyfile(world, tmp_path / "outside.sqlite")
    (tmp_path / "suite" / "world").mkdir(parents=True)
    shutil.copyfile(world, tmp_path / "suite" / "world" / "a.sqlite")
    assert Databases(lambda _db_id: world, tmp_path / "suite").suite_databases(db_id) == []


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8192\n"])
def test_a_suite_whose_files_are_no_databases_is_refused(world: Path, tmp_path: Path, content: bytes) -> None:
    """Every prediction would pass on them by not being tested."""
    (tmp_path / "world").mkdir()
    shutil.copyfile(world, tmp_path / "world" / "a.sqlite")
    (tmp_path / "world" / "._a.sqlite").write_bytes(b"left by macOS")
    databases = Databases(lambda _db_id: world, tmp_path)
    databases.require_suite(["world"])
    (tmp_path / "world" / "b.sqlite").write_bytes(content)
    with pytest.raises(KidpipeError, match="1 of 2 databases of the test suite can't be used") as caught:
        Databases(lambda _db_id: world, tmp_path).require_suite(["world"])
    assert caught.value.where == str(tmp_path / "world" / "b.sqlite")


def test_a_suite_that_is_none_is_refused_before_anything_runs(world: Path, tmp_path: Path) -> None:
    Databases(lambda _db_id: world).require_suite(["world"])
    with pytest.raises(KidpipeError, match="test suite missing") as caught:
        Databases(lambda _db_id: world, tmp_path / "none").require_suite()
    assert "<db_id>/*.sqlite" in caught.value.fix
    databases = Databases(lambda _db_id: world, tmp_path)
    databases.require_suite()
    with pytest.raises(KidpipeError, match="none of the data's databases"):
        databases.require_suite(["world", "other"])
    (tmp_path / "other").mkdir()
    shutil.copyfile(world, tmp_path / "other" / "a.sqlite")
    Databases(lambda _db_id: world, tmp_path).require_suite(["world", "other"])


def test_matchers_are_made_once_of_each_kind_and_none_where_the_file_is_damaged(world: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.sqlite").write_bytes(world.read_bytes()[:300])
    databases = Databases({"world": world, "bad": tmp_path / "bad.sqlite"}.__getitem__)
    ours, official = databases.matcher("world"), databases.matcher("world", official=True)
    assert isinstance(ours, ExactMatcher)
    assert isinstance(official, OfficialMatcher)
    assert databases.matcher("world") is ours
    assert databases.matcher("world", official=True) is official
    assert databases.matcher("bad") is None
    assert databases.matcher("bad", official=True) is None


def test_links_of_tables_json_count_for_the_databases_it_has(world: Path) -> None:
    sql, other = "SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY id"
    linked = Databases(lambda _db_id: world, links={"world": {"singer.age": "singer.id", "singer.id": "singer.id"}})
    matcher = linked.matcher("world")
    assert matcher is not None
    assert matcher(sql, other) is True
    plain = Databases(lambda _db_id: world, links={"elsewhere": {}}).matcher("world")
    assert plain is not None
    assert plain(sql, other) is False
