"""Which questions and databases are others than in the last build, by name; nothing is said that is not known."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kidcore.config.config import Config
from kidcore.config.digests import FileDigests
from kidcore.models.tokenizer_files import TokenizerFiles
from kidcore.sql.datasets import DataSet, Example
from kidcore.store.manifest import Facts, Manifest, PartRecord, StageRecord
from kidcore.store.store import Store
from pipeline.changed_inputs import changed_inputs, remember_databases
from pipeline.context import Context
from pipeline.outline import Outline, split_parts
from tests.pipeline.bigram import ingest_table


class World:
    """A data set with a store whose last build was made of it; a test changes one and asks the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "artifacts")
        for name in ("pets", "cars", "shop"):
            self.write(name, 1)
        self.examples = [
            Example(f"train:{number}", name, f"question {number}", "SELECT a FROM t", "hint")
            for number, name in enumerate(["pets", "cars", "pets", "shop"])
        ]
        self.manifest = self.build()

    def write(self, name: str, value: int) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / f"{name}.sqlite").unlink(missing_ok=True)
        with closing(sqlite3.connect(self.folder / name / f"{name}.sqlite")) as connection, connection:
            connection.execute(f"CREATE TABLE t AS SELECT {value} AS a")

    def context(self) -> Context:
        dataset = DataSet(self.examples, self.folder)
        outline = Outline.of(self.examples, 1000)
        parts = split_parts(dataset, outline, FileDigests(None))
        files = TokenizerFiles(self.folder, FileDigests(None))
        return Context(Config(), dataset, outline, parts, None, None, files, 99)

    def build(self) -> Manifest:
        """As a build leaves it: the ingest shard of its one part, and the databases' digests."""
        context = self.context()
        table = ingest_table(*["a"] * len(self.examples))
        for name in ("example_id", "db_id", "question", "gold_sql"):
            values = [getattr(example, name) for example in self.examples]
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [values])
        shard = self.store.commit("ingest", "0" * 32, table, {})
        records = tuple(PartRecord(part.index, part.rows, part.content, {"ingest": (shard.file,)}) for part in context.parts)
        manifest = Manifest.of(Facts(0, 1, "t", 9), {"ingest": StageRecord(1, {}, 0)}, {}, records)
        remember_databases(context, self.store, manifest.digest)
        return manifest

    def said(self, name: str) -> str | None:
        return changed_inputs(self.context(), self.store, self.manifest, name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_where_nothing_changed_nothing_is_named(world: World) -> None:
    assert world.said("source") == ""
    assert world.said("databases") == ""


def test_before_the_first_build_nothing_is_known(world: World) -> None:
    assert changed_inputs(world.context(), world.store, None, "source") is None
    assert changed_inputs(world.context(), world.store, None, "databases") is None


def test_databases_are_named_by_what_they_hold(world: World) -> None:
    world.write("pets", 2)
    assert world.said("databases") == "pets"
    (world.folder / "cars" / "cars.sqlite").unlink()
    assert world.said("databases") == "cars, pets"
    assert world.said("source") == "", "questions are no databases"


def test_a_database_that_comes_with_new_questions_is_a_change(world: World) -> None:
    for number in range(4):
        world.write(f"new{number}", number)
        world.examples.append(Example(f"train:n{number}", f"new{number}", "q", "SELECT 1"))
    assert world.said("databases") == "new0, new1, new2 and 1 more"


def drop_first(examples: list[Example]) -> list[Example]:
    return examples[1:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda old: [*old, replace(old[0], example_id="train:new")], "train:new"),
        (lambda old: [replace(old[0], question="other"), *old[1:]], "train:0"),
        (lambda old: [*old[:3], replace(old[3], gold_sql="SELECT 2")], "train:3"),
        (lambda old: [replace(old[0], db_id="cars"), *old[1:]], "train:0"),
        (drop_first, "gone: train:0"),
        (lambda old: [replace(old[0], example_id="train:x"), *old[1:]], "train:x; gone: train:0"),
        (lambda old: [replace(one, example_id=f"train:x{number}") for number, one in enumerate(old)],
         "train:x0, train:x1, train:x2 and 1 more; gone: train:0, train:1, train:2 and 1 more"),
        (lambda old: old[::-1], ""),
    ],
)  # fmt: skip
def test_questions_are_named_by_what_they_say(world: World, change: Callable[[list[Example]], list[Example]], said: str) -> None:
    world.examples = change(world.examples)
    assert world.said("source") == said


def test_what_the_shards_of_old_parts_held_is_not_known_once_they_are_gone(world: World) -> None:
    world.examples = drop_first(world.examples)
    for path in (world.store.root / "ingest").iterdir():
        path.unlink()
    assert world.said("source") is None


@pytest.mark.parametrize(
    "kept", [None, "{", "[]", "3", "null", '{"digests": {}}', '{"manifest": "OURS", "digests": [1]}', '{"manifest": "OURS"}']
)
def test_databases_are_not_known_where_nobody_kept_them_for_this_build(world: World, kept: str | None) -> None:
    file = world.store.root / "databases.json"
    if kept is None:
        file.unlink()
    else:
        file.write_text(kept.replace("OURS", world.manifest.digest))
    world.write("pets", 2)
    assert world.said("databases") is None


def test_those_of_another_build_are_not_this_ones(world: World) -> None:
    remember_databases(world.context(), world.store, "another")
    assert world.said("databases") is None
    document: dict[str, Any] = json.loads((world.store.root / "databases.json").read_text())
    assert set(document["digests"]) == {"pets", "cars", "shop"}
