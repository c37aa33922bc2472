"""A small SQLite database made on the spot, with its questions, for the tests of sandbox and evaluator."""

import os
import sqlite3
from pathlib import Path

import pytest

from kidcore.sql.datasets import Example

_SCRIPT = """
CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, country TEXT, age INTEGER, net REAL);
CREATE TABLE concert (id INTEGER PRIMARY KEY, singer_id INTEGER REFERENCES singer (id), year INTEGER, venue TEXT);
CREATE VIEW elder AS SELECT * FROM singer WHERE age > 40;
"""
COUNTRIES = ("France", "Peru", "Japan", "Kenya")


def make_world(folder: Path) -> Path:
    """A database of 60 singers and 150 concerts; returns its file."""
    path = folder / "world" / "world.sqlite"
    path.parent.mkdir(parents=True)
    connection = sqlite3.connect(path)
    connection.executescript(_SCRIPT)
    singers = [(n, f"Singer {n}", COUNTRIES[n * 7 % 11 % 4], 20 + n % 37, n * 1.5 if n % 5 else None) for n in range(1, 61)]
    concerts = [(n, 1 + n * 7 % 60, 2000 + n % 20, f"Hall {n % 9}") for n in range(1, 151)]
    connection.executemany("INSERT INTO singer VALUES (?, ?, ?, ?, ?)", singers)
    connection.executemany("INSERT INTO concert VALUES (?, ?, ?, ?)", concerts)
    connection.execute("INSERT INTO singer VALUES (61, CAST(x'ff41fe' AS TEXT), 'Peru', 50, 1.0)")
    connection.commit()
    connection.close()
    return path


GOLDS = (
    "SELECT name FROM singer WHERE country = 'France'",
    "SELECT country, COUNT(*) FROM singer GROUP BY country",
    "SELECT name FROM singer ORDER BY age DESC, id LIMIT 3",
    "SELECT T1.name, T2.year FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id WHERE T2.year > 2015",
    'SELECT AVG(age) FROM singer WHERE country = "Peru"',
    "SELECT DISTINCT venue FROM concert",
    "SELECT name FROM singer WHERE id NOT IN (SELECT singer_id FROM concert)",
    "SELECT country FROM singer WHERE age > 50 INTERSECT SELECT country FROM singer WHERE age < 25",
)


def make_examples(count: int) -> list[Example]:
    """`count` examples on the world, going round the golds."""
    return [Example(f"q{n}", "world", f"question {n}", GOLDS[n % len(GOLDS)]) for n in range(count)]


def real_data() -> Path:
    """The folder of real data; the test is skipped where there is none."""
    folder = Path(os.environ.get("KIDPIPE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    if not (folder / "spider" / "dev.json").is_file():
        pytest.skip(f"no real data at {folder}: set KIDPIPE_DATA")
    return folder
