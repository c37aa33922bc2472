"""A database or Spider's tables.json in, the tables, columns and key links that exact set match resolves names by out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError
from kidcore.sql.database import Database, database_of
from kidcore.sql.text_files import read_json

_KEYS = ("db_id", "table_names_original", "column_names_original", "foreign_keys")
"""Of a database in Spider's tables.json."""


@dataclass(frozen=True)
class Names:
    """Names in lower case; `same` maps a `table.column` to the one that stands for all columns linked with it by keys."""

    columns: dict[str, list[str]]
    same: Mapping[str, str]


def read_names(database: Database | Path, same: Mapping[str, str] | None = None) -> Names:
    """The names in a database; key links as declared there unless `same` says otherwise."""
    tables = database_of(database).schema().tables
    columns = {".".join(table.path).lower(): [column.name.lower() for column in table.columns] for table in tables}
    if same is None:
        order = [f"{table}.{column}" for table, names in columns.items() for column in names]
        links = [
            (".".join((*table.path, column)).lower(), ".".join((*table.qualifiers, other, target)).lower())
            for table in tables
            for column, other, target in table.links
        ]
        same = _same(order, links)
    return Names(columns, same)


def read_tables_json(path: Path) -> dict[str, dict[str, str]]:
    """The `same` of each database by Spider's tables.json, which often has more foreign keys than the files declare."""
    fix = "mend tables.json, move it away, or leave exact set match out: --set eval.exact_match=false"
    entries = read_json(path)
    if isinstance(entries, dict) and "db_id" in entries:
        entries = [entries]  # JSON Lines of one line, by another name
    if not isinstance(entries, list):
        raise KidpipeError("cannot read the schemas: they are no list of databases", where=str(path), fix=fix)
    found: dict[str, dict[str, str]] = {}
    for number, entry in enumerate(entries, 1):
        name = f" ({entry['db_id']})" if isinstance(entry, dict) and isinstance(entry.get("db_id"), str) else ""
        where = f"{path}, database {number}{name}"
        if lacking := [key for key in _KEYS if not (isinstance(entry, dict) and entry.get(key) is not None)]:
            raise KidpipeError(f"cannot read the schemas: one has no {', '.join(lacking)}", where=where, fix=fix)
        try:
            found[entry["db_id"]] = _same(*_links(entry))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise KidpipeError(f"cannot read the schemas: {type(error).__name__}: {error}", where=where, fix=fix) from error
    return found


def _links(entry: dict[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
    """The columns of one database, as table.column, and its pairs of linked ones."""
    tables = [name.lower() for name in entry["table_names_original"]]
    names = ["*" if table < 0 else f"{tables[table]}.{name.lower()}" for table, name in entry["column_names_original"]]
    return names, [(names[source], names[target]) for source, target in entry["foreign_keys"]]


def _same(order: list[str], links: list[tuple[str, str]]) -> dict[str, str]:
    """Each linked column's representative: the first, in `order`, of those reached by keys.

    As in Spider's evaluator, a key joins the first group that has one of its ends; two groups are never merged by it.
    """
    groups: list[set[str]] = []
    for link in links:
        group = next((group for group in groups if group & set(link)), None)
        if group is None:
            group = set()
            groups.append(group)
        group.update(link)
    rank = {name: number for number, name in enumerate(order)}
    same: dict[str, str] = {}
    for group in groups:
        first = min(group, key=lambda name: rank.get(name, len(rank)))
        same.update(dict.fromkeys(group, first))
    return same
