"""Gold queries and their databases in; a test suite (variants of each database that tell golds from their neighbours) out."""

import json
import random
import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path

from eval.execution import GoldCache, Pair, ProgressCallback, compare_results
from eval.suites.key_proofs import is_equal_by_keys, read_keys
from eval.suites.mutants import literals, mutants
from eval.suites.variants import Aim, make_variant
from kidcore.atomic import discard, replacing, write_text
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.errors import KidpipeError
from kidcore.sql.database import Database, database_of
from kidcore.sql.datasets import Example
from kidcore.sql.sandbox.job import ResultKind

REPORT_FILE = "suite.json"
_AIMED_SHARE = 0.7
_PATIENCE = 12
"""Variants in a row that refute no further mutant before no more are tried."""


@dataclass(frozen=True)
class DatabaseReport:
    """How well a database's suite tells golds from their mutants.

    Mutants that the keys prove equal to their gold are in `equal` and nowhere else. Others may be equal too: no database tells
    those apart, and they count as not killed.
    """

    golds: int
    mutants: int
    killed_by_original: int
    killed: int
    variants: int
    equal: int


def make_suite(
    examples: Sequence[Example],
    database: Callable[[str], Database | Path],
    folder: Path,
    num_variants: int,
    seed: int,
    settings: EvalSettings,
    progress: ProgressCallback | None = None,
    sandbox: SandboxSettings | None = None,
) -> dict[str, DatabaseReport]:
    """Write <folder>/<db_id>/*.sqlite, the original among them, and `suite.json`; returns the report by db_id.

    A variant is kept only where it refutes a mutant that none before it did, and every gold still executes on it. Golds that
    don't execute on the original play no part.

    A database that is missing, damaged or not SQLite gets no suite: `unfit` says why.

    Raises:
        KidpipeError: `folder` holds something else than a suite, or no database can have one.
    """
    golds: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        golds[example.db_id].append(example.gold_sql)
    _require_ours(folder)
    sources = {db_id: database_of(database(db_id), db_id) for db_id in golds}
    faults = {db_id: fault for db_id, source in sources.items() if (fault := unfit(source))}
    if sources and len(faults) == len(sources):
        raise next(iter(faults.values()))
    reports: dict[str, DatabaseReport] = {}
    new_cache = partial(GoldCache, settings, sandbox)
    _write_report(folder, seed, reports)
    fit = sorted((db_id, sqls) for db_id, sqls in golds.items() if db_id not in faults)
    for done, (db_id, sqls) in enumerate(fit, 1):
        unique = list(dict.fromkeys(sqls))
        with replacing(folder / db_id) as fresh:
            reports[db_id] = _fuzz(db_id, unique, sources[db_id], fresh, num_variants, f"{seed}/{db_id}", new_cache)
            # What an interruption left of it would be taken for all of its variants.
            discard(folder / db_id)
        _write_report(folder, seed, reports)
        if progress:
            progress(done, len(fit))
    return reports


def total(reports: Iterable[DatabaseReport]) -> DatabaseReport:
    """All databases together."""
    rows = [astuple(report) for report in reports]
    return DatabaseReport(*map(sum, zip(*rows, strict=True))) if rows else DatabaseReport(0, 0, 0, 0, 0, 0)


def _require_ours(folder: Path) -> None:
    """Refuse to write where something else would be lost."""
    if folder.exists() and not (folder.is_dir() and ((folder / REPORT_FILE).is_file() or not any(folder.iterdir()))):
        raise KidpipeError("there is something else than a test suite", where=str(folder), fix="name a new or an empty folder")


def unfit(source: Database) -> KidpipeError | None:
    """Why no variant can be made of a database; None where some can."""
    if fault := source.fault:
        return fault
    try:
        source.schema()
    except KidpipeError as error:
        return error
    if source.engine == "sqlite":
        return None
    fix = "leave DuckDB databases without a suite, or give kidpipe eval --suite variants made by yourself"
    return KidpipeError("a test suite can be made of SQLite databases only", where=str(source.path), fix=fix)


def _write_report(folder: Path, seed: int, reports: Mapping[str, DatabaseReport]) -> None:
    """After every database, so that an interrupted run leaves a folder that is known as a suite."""
    databases = {name: asdict(report) for name, report in reports.items()}
    content = {"seed": seed, "total": asdict(total(reports.values())), "databases": databases}
    write_text(folder / REPORT_FILE, json.dumps(content, indent=2) + "\n")


def _fuzz(
    db_id: str, golds: list[str], origin: Database, folder: Path, num_variants: int, seed: str, new_cache: Callable[[], GoldCache]
) -> DatabaseReport:
    folder.mkdir(parents=True)
    source = origin.file
    shutil.copyfile(source, folder / f"{db_id}{source.suffix}")
    golds = _executing(golds, source, new_cache())
    keys = read_keys(source)
    neighbours = [(gold, mutant) for gold in golds for mutant in mutants(gold, origin.dialect)]
    differing = [pair for pair in neighbours if not is_equal_by_keys(*pair, keys, origin.dialect)]
    alive, invalid = _survivors(differing, source, new_cache())
    num_mutants = len(differing) - invalid
    after_original = len(alive)
    kept = idle = 0
    for number in range(6 * num_variants):
        if kept >= num_variants or idle >= _PATIENCE or not alive:
            break
        candidate = folder / f".candidate{source.suffix}"
        aim, values = _aim(number, f"{seed}/{number}", golds, alive)
        is_made = _is_made(source, candidate, values, f"{seed}/{number}", aim)
        rest = _survivors(alive, candidate, new_cache())[0] if is_made else alive
        if len(rest) == len(alive) or len(_executing(golds, candidate, new_cache())) < len(golds):
            candidate.unlink(missing_ok=True)
            idle += 1
            continue
        candidate.replace(folder / f"variant_{kept:02d}{source.suffix}")
        alive, kept, idle = rest, kept + 1, 0
    equal = len(neighbours) - len(differing)
    return DatabaseReport(len(golds), num_mutants, num_mutants - after_original, num_mutants - len(alive), kept, equal)


def _is_made(source: Path, candidate: Path, values: dict[str, set[object]], seed: str, aim: Aim) -> bool:
    """Whether SQLite can write the variant at all: it can't where a table or an index needs what only its maker has."""
    try:
        make_variant(source, candidate, values, seed, aim)
    except sqlite3.Error:
        return False
    return True


def _aim(number: int, seed: str, golds: list[str], alive: list[tuple[str, str]]) -> tuple[Aim, dict[str, set[object]]]:
    """Broad variants, variants of few values, and either of these aimed at one gold that has mutants left, by turns."""
    few = number % 4 >= 2
    if number % 2 == 0:
        return Aim(few=few), _merged(golds)
    left = list(dict.fromkeys(gold for gold, _mutant in alive))
    return Aim(literal_share=_AIMED_SHARE, few=few), literals(random.Random(seed).choice(left))


def _survivors(pairs: list[tuple[str, str]], path: Path, cache: GoldCache) -> tuple[list[tuple[str, str]], int]:
    """Mutants that give their gold's result on this database, and how many don't execute at all."""
    found = compare_results([Pair(gold, mutant, path) for gold, mutant in pairs], cache, check_ties=False)
    invalid = sum(item.kind is not ResultKind.OK for item in found)
    return [pair for pair, item in zip(pairs, found, strict=True) if item.ex_bag], invalid


def _executing(golds: list[str], path: Path, cache: GoldCache) -> list[str]:
    database = database_of(path)
    queries = [(database, gold) for gold in golds]
    cache.fill(queries, check_ties=False)
    results = cache.get(queries)
    return [gold for gold in golds if results[database, gold].result.is_ok]


def _merged(golds: list[str]) -> dict[str, set[object]]:
    merged: dict[str, set[object]] = defaultdict(set)
    for gold in golds:
        for column, values in literals(gold).items():
            merged[column] |= values
    return merged
