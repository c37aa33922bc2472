"""Fuzzed test suites: variants keep the schema and its keys, golds run on them, and they refute what the original can't."""

import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from eval.databases import Databases
from eval.execution import GoldCache
from eval.suites import fuzz
from eval.suites.fuzz import REPORT_FILE, make_suite, unfit
from eval.suites.key_proofs import Keys, is_equal_by_keys, read_keys
from eval.suites.mutants import literals, mutants
from eval.suites.variants import Aim, make_variant
from eval.verdicts import judge
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.errors import KidpipeError
from kidcore.sql.database import database_of
from kidcore.sql.datasets import Example
from tests.eval.worlds import GOLDS, make_examples, make_world

ON = "c.singer_id = s.id"
SETTINGS, SANDBOX = EvalSettings(max_steps=2_000_000), SandboxSettings(workers=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("fuzz"))


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        names = [row[0].decode() for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY rowid").fetchall() for name in names}


def test_mutants_are_neighbours() -> None:
    found = mutants("SELECT name FROM singer WHERE age > 30 AND id = 1 ORDER BY age LIMIT 2")
    assert "SELECT name FROM singer WHERE age >= 30 AND id = 1 ORDER BY age LIMIT 2" in found
    assert "SELECT name FROM singer WHERE age > 31 AND id = 1 ORDER BY age LIMIT 2" in found
    assert "SELECT name FROM singer WHERE age > 30 OR id = 1 ORDER BY age LIMIT 2" in found
    assert "SELECT name FROM singer WHERE age > 30 ORDER BY age LIMIT 2" in found
    assert "SELECT name FROM singer WHERE age > 30 AND id = 1 ORDER BY age DESC LIMIT 2" in found
    assert "SELECT name FROM singer WHERE age > 30 AND id = 1 ORDER BY age LIMIT 3" in found
    assert len(found) == len(set(found))
    assert mutants("not sql at all") == mutants("DELETE FROM singer") == []


def test_mutants_of_a_set_operation_change_its_root() -> None:
    found = mutants("SELECT a FROM t UNION SELECT b FROM t")
    assert "SELECT a FROM t INTERSECT SELECT b FROM t" in found


def test_literals_are_found_by_column() -> None:
    sql = "SELECT name FROM singer WHERE Age > 30 AND country = \"Peru\" AND name LIKE '%x%' AND net BETWEEN 1.5 AND 2 LIMIT 7"
    assert literals(sql) == {"age": {30}, "country": {"Peru"}, "name": {"%x%"}, "net": {1.5, 2}}


def test_a_variant_keeps_schema_keys_and_references(world: Path, tmp_path: Path) -> None:
    values = {"country": {"Spain"}, "age": {30}}
    paths = [tmp_path / f"{name}.sqlite" for name in ("a", "b", "c")]
    for path, seed in zip(paths, ("one", "one", "two"), strict=True):
        make_variant(world, path, values, seed)
    original, first, same, other = contents(world), *map(contents, paths)
    assert first == same
    assert first != other
    assert first != original
    assert [row[0] for row in first["singer"]] == [row[0] for row in original["singer"]]
    keys = {row[0] for row in first["singer"]} | {None}
    assert {row[1] for row in first["concert"]} <= keys
    assert any(row[2] == b"Spain" for row in first["singer"])
    assert len(first["concert"]) <= len(original["concert"])


@pytest.fixture(scope="module")
def keys(world: Path) -> Keys:
    return read_keys(world)


@pytest.mark.parametrize(
    ("gold", "mutant", "is_equal"),
    [
        ("SELECT id, name FROM singer", "SELECT DISTINCT id, name FROM singer", True),
        ("SELECT DISTINCT T1.id FROM singer AS T1", "SELECT T1.id FROM singer AS T1", True),
        ("SELECT name FROM singer", "SELECT DISTINCT name FROM singer", False),
        ("SELECT name FROM singer WHERE id = 3 AND age > 1", "SELECT DISTINCT name FROM singer WHERE id = 3 AND age > 1", True),
        ("SELECT name FROM singer WHERE id = 3 OR age > 1", "SELECT DISTINCT name FROM singer WHERE id = 3 OR age > 1", False),
        ("SELECT name FROM singer WHERE id > 3", "SELECT DISTINCT name FROM singer WHERE id > 3", False),
        ("SELECT T1.id FROM singer T1, concert T2", "SELECT DISTINCT T1.id FROM singer T1, concert T2", False),
        ("SELECT COUNT(id) FROM singer", "SELECT COUNT(DISTINCT id) FROM singer", True),
        ("SELECT COUNT(age) FROM singer", "SELECT COUNT(DISTINCT age) FROM singer", False),
        ("SELECT COUNT(id) FROM singer GROUP BY age", "SELECT COUNT(DISTINCT id) FROM singer GROUP BY age", False),
        ("SELECT id FROM singer", "SELECT id FROM singer WHERE age > 3", False),
        # concert.singer_id may be NULL, and a singer may have no concert.
        (f"SELECT 1 FROM concert c JOIN singer s ON {ON}", f"SELECT 1 FROM concert c LEFT JOIN singer s ON {ON}", False),
        (f"SELECT 1 FROM singer s JOIN concert c ON {ON}", f"SELECT 1 FROM singer s LEFT JOIN concert c ON {ON}", False),
    ],
)
def test_what_the_keys_prove(keys: Keys, gold: str, mutant: str, is_equal: bool) -> None:
    assert is_equal_by_keys(gold, mutant, keys) is is_equal


def test_an_outer_join_to_a_referenced_key_is_an_inner_one(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE a (id INTEGER PRIMARY KEY);"
            "CREATE TABLE b (a_id INTEGER NOT NULL REFERENCES a, x INTEGER REFERENCES a (id));"
        )
    found = read_keys(path)
    inner, outer = "SELECT * FROM b JOIN a ON b.{} = a.id", "SELECT * FROM b LEFT JOIN a ON b.{} = a.id"
    assert is_equal_by_keys(inner.format("a_id"), outer.format("a_id"), found)
    assert not is_equal_by_keys(inner.format("x"), outer.format("x"), found)
    assert not is_equal_by_keys(inner.format("a_id"), outer.format("a_id") + " AND a.id > 3", found)
    twice = "SELECT * FROM a AS o LEFT JOIN b ON b.x = o.id {} JOIN a ON b.a_id = a.id"
    assert not is_equal_by_keys(twice.format(""), twice.format("LEFT"), found), "the first outer join may bring NULLs"


def test_what_is_proved_equal_is_refuted_by_no_variant(world: Path, keys: Keys, tmp_path: Path) -> None:
    golds = [*GOLDS, "SELECT id, name FROM singer", "SELECT name FROM singer WHERE id = 3", "SELECT COUNT(id) FROM singer"]
    proved = [(gold, mutant) for gold in golds for mutant in mutants(gold) if is_equal_by_keys(gold, mutant, keys)]
    assert len(proved) >= 3
    for number in range(6):
        path = tmp_path / f"{number}.sqlite"
        make_variant(world, path, {}, str(number), Aim(few=bool(number % 2)))
        for gold, mutant in proved:
            with closing(sqlite3.connect(path)) as connection:
                assert sorted(connection.execute(gold).fetchall()) == sorted(connection.execute(mutant).fetchall())


def test_few_values_meet_averages_and_repeat(world: Path, tmp_path: Path) -> None:
    met = []
    for number in range(8):
        path = tmp_path / f"{number}.sqlite"
        make_variant(world, path, {}, str(number), Aim(few=True))
        with closing(sqlite3.connect(path)) as connection:
            met += connection.execute("SELECT COUNT(*) > 0 FROM singer WHERE age = (SELECT AVG(age) FROM singer)").fetchone()
    assert any(met)


@pytest.mark.slow
def test_a_suite_refutes_more_mutants_than_the_original(world: Path, tmp_path: Path) -> None:
    examples = make_examples(len(GOLDS))
    report = make_suite(examples, lambda _db_id: world, tmp_path, num_variants=6, seed=0, settings=SETTINGS, sandbox=SANDBOX)[
        "world"
    ]
    assert report.killed_by_original < report.killed <= report.mutants
    files = sorted(path.name for path in (tmp_path / "world").iterdir())
    assert files == sorted([f"variant_{number:02d}.sqlite" for number in range(report.variants)] + ["world.sqlite"])
    assert (tmp_path / REPORT_FILE).is_file()
    databases = Databases(lambda _db_id: world, tmp_path)
    pairs = [(gold, mutant) for gold in GOLDS for mutant in mutants(gold)]
    tried = [Example(f"m{number}", "world", "", gold) for number, (gold, _mutant) in enumerate(pairs)]
    verdicts = judge(
        tried, {f"m{number}": mutant for number, (_gold, mutant) in enumerate(pairs)}, databases, GoldCache(SETTINGS, SANDBOX)
    )
    assert sum(bool(verdict.ex_bag and not verdict.ts_bag) for verdict in verdicts) == report.killed - report.killed_by_original
    golds = judge(
        examples, {example.example_id: example.gold_sql for example in examples}, databases, GoldCache(SETTINGS, SANDBOX)
    )
    assert all(verdict.ts_bag for verdict in golds)


def test_an_interrupted_suite_has_no_database_with_some_of_its_variants(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_path: Path) -> Keys:
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz, "read_keys", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            make_suite(make_examples(2), lambda _db_id: world, tmp_path, num_variants=2, seed=0, settings=SETTINGS)
        assert [path.name for path in tmp_path.iterdir()] == [REPORT_FILE]
        assert not Databases(lambda _db_id: world, tmp_path).suite_databases("world")


def test_duckdb_databases_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "world.sqlite"  # told by its content
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE singer (id INTEGER)")
    with pytest.raises(KidpipeError, match="SQLite databases only") as caught:
        make_suite(
            make_examples(2), lambda _db_id: path, tmp_path / "suite", num_variants=2, seed=0, settings=SETTINGS, sandbox=SANDBOX
        )
    assert "DuckDB" in caught.value.fix
    assert not (tmp_path / "suite").exists()


def test_a_database_that_can_have_no_suite_stops_no_other(tmp_path: Path) -> None:
    good, duck = tmp_path / "good.sqlite", tmp_path / "duck.sqlite"
    with closing(sqlite3.connect(good)) as connection, connection:
        connection.execute("CREATE TABLE t (a INT)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in (1, 2, 2**63 - 1, -(2**63))])
        connection.execute("CREATE TRIGGER r AFTER UPDATE ON t BEGIN INSERT INTO nowhere VALUES (new.a); END")
    duckdb.connect(str(duck)).close()
    own = tmp_path / "own.sqlite"
    with closing(sqlite3.connect(own)) as connection, connection:
        connection.create_collation("MINE", lambda a, b: (a > b) - (a < b))
        connection.execute("CREATE TABLE t (a TEXT COLLATE MINE, b INT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [("x", 1), ("y", 2)])
        connection.execute("CREATE INDEX i ON t (a)")
    (tmp_path / "cut.sqlite").write_bytes(good.read_bytes()[:200])
    examples = [Example(name, name, "", "SELECT a FROM t WHERE a > 1") for name in ("good", "duck", "cut", "gone")]
    examples.append(Example("own", "own", "", "SELECT b FROM t WHERE b > 1"))
    paths = {name: tmp_path / f"{name}.sqlite" for name in ("good", "own", "duck", "cut", "gone")}
    assert [bool(unfit(database_of(path))) for path in paths.values()] == [False, False, True, True, True]
    reports = make_suite(
        examples, paths.__getitem__, tmp_path / "suite", num_variants=2, seed=0, settings=SETTINGS, sandbox=SANDBOX
    )
    assert list(reports) == ["good", "own"]
    assert (reports["good"].golds, reports["own"].golds, reports["own"].variants) == (1, 1, 0)
