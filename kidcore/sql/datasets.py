"""A text-to-SQL data set on disk in, a list of examples out."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kidcore.config.config import DataSettings
from kidcore.errors import KidpipeError
from kidcore.sql.database import Database, database_in
from kidcore.sql.example_ids import ContentNames
from kidcore.sql.text_files import read_rows, visible

Split = Literal["train", "dev"]
_NO_TEXT = "no text"


@dataclass(frozen=True, slots=True)
class Example:
    """One question with its gold SQL.

    `example_id` is the data set's own where it has one. Else a training example is named after its content, so that what
    was paid for it is found again wherever it moves in the file; a development example is named after its place, as
    files of predictions name it.
    """

    example_id: str
    db_id: str
    question: str
    gold_sql: str
    evidence: str = ""
    difficulty: str = ""
    fault: str = ""
    """Why it can't be used; empty where it can."""


@dataclass(frozen=True)
class DataSet:
    """The examples of one split and the folder of their databases."""

    examples: Sequence[Example]
    databases: Path

    def database(self, db_id: str) -> Database:
        """The database of `db_id`, whether or not it exists: DuckDB's where there is one, else SQLite's."""
        return database_in(self.databases, db_id)


@dataclass(frozen=True)
class _Layout:
    """Where a layout keeps its files (first that exists; a tuple of groups read one after the other) and its keys."""

    train: tuple[tuple[str, ...], ...]
    dev: tuple[tuple[str, ...], ...]
    databases: dict[Split, tuple[str, ...]]
    question: str = "question"
    query: str = "query"


_SPIDER_DATABASES: dict[Split, tuple[str, ...]] = {"train": ("database",), "dev": ("database",)}
# The optional second group of Spider is the official train_others.json: its rows get ids of their own. CSpider, SParC and others
# of its form call the first one train.json.
LAYOUTS: dict[str, _Layout] = {
    "spider": _Layout((("train_spider.json", "train.json"), ("train_others.json",)), (("dev.json",),), _SPIDER_DATABASES),
    "spider-syn": _Layout(
        (("train_spider.json", "train.json"),), (("dev.json",),), _SPIDER_DATABASES, question="SpiderSynQuestion"
    ),
    "bird": _Layout(
        (("train.json", "train/train.json"),),
        (("dev.json", "dev/dev.json"),),
        {
            "train": ("train_databases", "train/train_databases"),
            "dev": ("dev_databases", "dev/dev_databases"),
        },
        query="SQL",
    ),
    "jsonl": _Layout(
        (("train.jsonl",),),
        (("dev.jsonl",),),
        {"train": ("databases", "database"), "dev": ("databases", "database")},
    ),
}


def read(settings: DataSettings, split: Split) -> DataSet:
    """Read split `train` or `dev` in the layout that `settings` names; `limit` and `sample` apply to train.

    Raises:
        KidpipeError: a missing folder or file, malformed JSON (with its line), a key that no row has a text under, or an id
            that occurs twice.
    """
    files, databases = locate(settings, split)
    examples: list[Example] = []
    for file in files:
        examples.extend(_read_file(file, LAYOUTS[settings.layout], split))
    _require_unique(examples)
    if split == "train" and settings.limit:
        examples = examples[: settings.limit]
    if split == "train" and settings.sample:
        examples = spread_sample(examples, settings.sample, settings.sample_seed)
    return DataSet(examples, databases)


def locate(settings: DataSettings, split: Split) -> tuple[list[Path], Path]:
    """The files of a split and the folder of its databases. Raises KidpipeError where one of them is missing."""
    root = Path(settings.path).expanduser()
    refuse_file(root)
    if not root.is_dir():
        raise KidpipeError(f"no such data folder: {root}", where="data.path", fix="set data.path, or --data FOLDER")
    layout = LAYOUTS[settings.layout]
    files = _files(root, layout, split, settings.train if split == "train" else settings.dev)
    return files, _databases(root, layout, split, settings.databases)


def refuse_file(data: Path) -> None:
    """Raise KidpipeError where a file is given for the folder of a data set: one of questions, or a database."""
    if data.is_file():
        is_questions = data.suffix.lower() in (".csv", ".json", ".jsonl", ".parquet")
        given = f"--questions {data} --database DATABASES" if is_questions else f"--questions QUESTIONS --database {data}"
        raise KidpipeError(
            f"{data} is a file, and a data set is a folder", where="data.path", fix=f"make one of it: kidpipe init {given}"
        )


def spread_sample(examples: Sequence[Example], number: int, seed: int) -> list[Example]:
    """`number` of the examples in the order they have, from each database as many as from any other, as far as it has them.

    Databases give one example each in turn, in an order that hashes decide; so a larger sample holds the smaller ones.
    """

    def drawn(text: str) -> bytes:
        return hashlib.blake2b(f"{seed}|{text}".encode(), digest_size=16).digest()

    turns: Counter[str] = Counter()
    ranks: list[tuple[int, bytes, int]] = []
    for place in sorted(range(len(examples)), key=lambda place: drawn(f"example|{examples[place].example_id}")):
        db_id = examples[place].db_id
        ranks.append((turns[db_id], drawn(f"database|{db_id}"), place))
        turns[db_id] += 1
    return [examples[place] for place in sorted(place for *_, place in sorted(ranks)[:number])]


def _files(root: Path, layout: _Layout, split: Split, named: str) -> list[Path]:
    if named:
        file = root / named
        if not file.is_file():
            raise KidpipeError(f"no such file: {file}", where=f"data.{split}", fix=f"files there: {_listing(root)}")
        return [file]
    groups = layout.train if split == "train" else layout.dev
    zipped = [[name + ending for name in names for ending in ("", ".gz")] for names in groups]
    found = [next((root / name for name in names if (root / name).is_file()), None) for names in zipped]
    files = [file for file in found if file is not None]
    if found[0] is None:
        raise KidpipeError(
            f"no {split} examples: none of {', '.join(groups[0])} in {root}",
            where=f"files there: {_listing(root)}",
            fix=_other_layout(root, layout, split),
        )
    return files


def _other_layout(root: Path, layout: _Layout, split: Split) -> str:
    """What to set where a folder has no file that the layout names."""
    if fitting := _fitting_layout(root, split):
        return fitting
    if split == "train" and _fits(root, layout, "dev"):
        return "it has held-out questions alone; to train on a part of them: kidpipe init --questions FILE --database FOLDER"
    return f"set data.layout to the layout of this folder, or data.{split} to the file's name"


def _fitting_layout(root: Path, split: Split) -> str:
    fitting = [name for name, layout in LAYOUTS.items() if _fits(root, layout, split)]
    return f"its files are those of another layout: --layout {' or '.join(fitting)}" if fitting else ""


def _fits(root: Path, layout: _Layout, split: Split) -> bool:
    (files, *_more), folders = (layout.train if split == "train" else layout.dev), layout.databases[split]
    return any((root / name).is_file() for name in files) and any((root / name).is_dir() for name in folders)


def _listing(folder: Path) -> str:
    names = sorted(item.name for item in folder.iterdir())
    return ", ".join(names[:12]) + (" ..." if len(names) > 12 else "") if names else "none"


def _databases(root: Path, layout: _Layout, split: Split, named: str) -> Path:
    candidates = (named,) if named else layout.databases[split]
    for name in candidates:
        if (root / name).is_dir():
            return root / name
    raise KidpipeError(
        f"no folder of databases: none of {', '.join(candidates)} in {root}",
        where="data.databases",
        fix=_fitting_layout(root, split) or "set data.databases to the folder that holds <db_id>/<db_id>.sqlite",
    )


def _read_file(file: Path, layout: _Layout, split: Split) -> list[Example]:
    prefix = "train_others" if file.name.removesuffix(".gz") == "train_others.json" else split
    rows = read_rows(file)
    if isinstance(rows, dict) and "db_id" in rows:
        rows = iter([rows])  # JSON Lines of one line, by another name
    if not isinstance(rows, Iterator):
        raise KidpipeError("neither a JSON array of examples nor JSON Lines", where=str(file), fix="give an object an example")
    names = ContentNames(prefix)
    examples: list[Example] = []
    first: Any = None
    for number, row in enumerate(rows):
        first = row if number == 0 else first
        texts, fault = _texts(row, file, number, layout)
        own = _own_id(row)
        name = f"{prefix}:{number}" if split == "dev" else names.of((texts["db_id"], texts["question"], texts["gold_sql"]))
        examples.append(Example(visible(f"{prefix}:{own}") if own else name, **texts, fault=fault))
    if examples and all(example.fault.startswith(_NO_TEXT) for example in examples):
        raise KidpipeError(
            f"an example has {examples[0].fault}; it has {', '.join(map(repr, sorted(first)))}",
            where=f"{file}, all {len(examples)} examples",
            fix="set data.layout to the layout of this file, or mend the examples",
        )
    return examples


def _texts(row: Any, file: Path, number: int, layout: _Layout) -> tuple[dict[str, str], str]:
    """What an example says, and why it can't be used, if that is so."""
    if not isinstance(row, dict):
        raise KidpipeError("an example must be a JSON object", where=f"{file}, example {number}", fix="mend that example")
    question_key = layout.question if layout.question in row else "question"
    found = {key: row.get(key) for key in ("db_id", question_key, layout.query)}
    lacking = [key for key, value in found.items() if not isinstance(value, str) or not value.strip()]
    texts = {
        # Shared by many: a million examples need not hold as many names of a hundred databases.
        "db_id": sys.intern(str(found["db_id"] or "")),
        "question": str(found[question_key] or "").strip(),
        "gold_sql": str(found[layout.query] or "").strip().rstrip("; \t\n\r\f\v"),
        "evidence": str(row.get("evidence") or "").strip(),
        "difficulty": sys.intern(str(row.get("difficulty") or "")),
    }
    shown = texts if all(map(str.isascii, texts.values())) else {name: visible(text) for name, text in texts.items()}
    return shown, f"{_NO_TEXT} under {', '.join(lacking)}" if lacking else _fault(texts, shown)


def _fault(texts: Mapping[str, str], shown: Mapping[str, str]) -> str:
    """Why no stage could use these texts: no tokenizer, file or engine takes half a character, no path a NUL."""
    halved = [name for name, text in texts.items() if text != shown[name]]
    if halved:
        return f"not Unicode text: a lone surrogate in {', '.join(halved)}"
    return "a NUL character in db_id" if "\x00" in texts["db_id"] else ""


def _own_id(row: dict[str, Any]) -> str:
    """The id that the data set gives a row, or nothing."""
    return next((str(row[key]) for key in ("id", "question_id") if row.get(key) not in (None, "")), "")


def _require_unique(examples: list[Example]) -> None:
    seen: set[str] = set()
    for example in examples:
        if example.example_id in seen:
            raise KidpipeError(
                f"the id {example.example_id!r} occurs twice", where="data", fix="give every example an id of its own"
            )
        seen.add(example.example_id)
