"""A seed in; text-to-SQL data in the official Spider layout out: train_spider.json, dev.json, tables.json, database/."""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from kidcore.atomic import write_text
from kidcore.errors import KidpipeError
from kidpipe.demo.catalogue import KINDS
from kidpipe.demo.domains import DOMAINS
from kidpipe.demo.draft import Draft
from kidpipe.demo.rows import TableRows, make_rows, tables_entry, write_sqlite
from kidpipe.demo.scene import Scene

# One SQL text in this many belongs to dev, whatever the sizes asked for.
_DEV_SHARE = 12
# A kind that finds nothing new this often gives up its turn; a world where every kind does so is exhausted.
_TRIES = 60


@dataclass(frozen=True)
class Question:
    """One example, with the kind of its template, which the files do not tell."""

    db_id: str
    question: str
    query: str
    kind: str


@dataclass(frozen=True)
class WorldStats:
    """What make_world wrote; `train_kinds` and `dev_kinds` count the questions of each kind."""

    num_databases: int
    num_tables: int
    num_rows: int
    num_train: int
    num_dev: int
    train_kinds: dict[str, int]
    dev_kinds: dict[str, int]


def make_world(folder: Path, *, num_train: int, num_dev: int, seed: int) -> WorldStats:
    """Write the world into `folder`, made where it does not exist; the same arguments give the same bytes.

    Train and dev ask about the SAME databases: a model trained from nothing cannot read an unseen schema. Held out are
    the queries: no (database, SQL) of dev, and so no (database, question), occurs in train. With a larger size the
    earlier questions stay and new ones follow.
    """
    rows = {database.name: make_rows(database, seed) for database in DOMAINS}
    folder.mkdir(parents=True, exist_ok=True)
    for database in DOMAINS:
        write_sqlite(database, rows[database.name], folder / "database" / database.name / f"{database.name}.sqlite")
    _write_json(folder / "tables.json", [tables_entry(database) for database in DOMAINS])
    counts = {}
    for split, file, size in (("train", "train_spider.json", num_train), ("dev", "dev.json", num_dev)):
        questions = make_questions(rows, size, split, seed, folder / "database")
        entries = [{"db_id": item.db_id, "question": item.question, "query": item.query} for item in questions]
        _write_json(folder / file, entries)
        counts[split] = dict(sorted(Counter(item.kind for item in questions).items()))
    return WorldStats(
        num_databases=len(DOMAINS),
        num_tables=sum(len(database.tables) for database in DOMAINS),
        num_rows=sum(len(table) for tables in rows.values() for table in tables.values()),
        num_train=num_train,
        num_dev=num_dev,
        train_kinds=counts["train"],
        dev_kinds=counts["dev"],
    )


def make_questions(rows: dict[str, TableRows], size: int, split: str, seed: int, databases: Path) -> list[Question]:
    """`size` different questions of one split, each with a gold that says something about the data."""
    rng = Random(f"{seed}:{split}")
    scenes = [Scene(database, rows[database.name], rng) for database in DOMAINS]
    connections = {
        database.name: sqlite3.connect(f"file:{databases}/{database.name}/{database.name}.sqlite?mode=ro", uri=True)
        for database in DOMAINS
    }
    try:
        made = list(islice(_stream(scenes, rng, split == "dev", connections), size))
    finally:
        for connection in connections.values():
            connection.close()
    if len(made) < size:
        raise KidpipeError(
            f"the demo world has only {len(made)} different {split} questions with seed {seed}",
            fix=f"ask for at most {len(made)}",
        )
    return made


def _stream(scenes: list[Scene], rng: Random, for_dev: bool, connections: dict[str, sqlite3.Connection]) -> Iterator[Question]:
    """Questions, kind by kind from a shuffled deck; ends when a whole deck brings nothing new."""
    deck = [kind for kind, (share, _) in KINDS.items() for _ in range(share)]
    seen: set[tuple[str, str]] = set()
    progress = True
    while progress:
        progress = False
        rng.shuffle(deck)
        for kind in deck:
            for _ in range(_TRIES):
                scene = rng.choice(scenes)
                draft = KINDS[kind][1](scene)
                name = scene.database.name
                if draft is None or (name, draft.question) in seen or _is_held_out(name, draft.query) != for_dev:
                    continue
                if says_something(connections[name], draft):
                    seen.add((name, draft.question))
                    progress = True
                    yield Question(name, draft.question, draft.query, kind)
                    break


def _is_held_out(db_id: str, query: str) -> bool:
    digest = hashlib.sha256(f"{db_id}\n{query}".encode()).digest()
    return digest[0] % _DEV_SHARE == 0


def says_something(connection: sqlite3.Connection, draft: Draft) -> bool:
    """Whether the gold returns rows, not just one of zeros and NULLs, and no tie makes its order a matter of luck."""
    with closing(connection.cursor()) as cursor:
        result = cursor.execute(draft.query).fetchall()
        if not result or (len(result) == 1 and not any(result[0])):
            return False
        if not draft.ranking:
            return True
        keys = [row[0] for row in cursor.execute(draft.ranking)]
    return len(set(keys)) == len(keys)


def _write_json(path: Path, entries: Sequence[Mapping[str, object]]) -> None:
    write_text(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
