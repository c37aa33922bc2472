"""Gold queries and their databases in; a test suite (variants of each database that tell golds from their neighbours) out."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.execution import GoldCache, Pair, Progress, compare
from eval.mutants import literals, mutants
from eval.variants import make_variant
from kidpipe.config import EvalSettings
from kidpipe.readers import Example
from kidpipe.sandbox.job import Kind

REPORT_FILE = "suite.json"
_PATIENCE = 5
"""Variants in a row that refute no further mutant before no more are tried."""


@dataclass(frozen=True)
class DatabaseReport:
    """How well a database's suite tells golds from their mutants. Mutants equal in meaning can't be told apart by any."""

    golds: int
    mutants: int
    killed_by_original: int
    killed: int
    variants: int


def fuzz_suite(
    examples: Sequence[Example],
    database: Callable[[str], Path],
    folder: Path,
    num_variants: int,
    seed: int,
    settings: EvalSettings,
    progress: Progress | None = None,
) -> dict[str, DatabaseReport]:
    """Write <folder>/<db_id>/*.sqlite, the original among them, and `suite.json`; returns the report by db_id.

    A variant is kept only where it refutes a mutant that none before it did, and every gold still executes on it.
    """
    golds: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        golds[example.db_id].append(example.gold_sql)
    reports: dict[str, DatabaseReport] = {}
    for done, (db_id, sqls) in enumerate(sorted(golds.items()), 1):
        unique = list(dict.fromkeys(sqls))
        reports[db_id] = _fuzz(db_id, unique, database(db_id), folder / db_id, num_variants, f"{seed}/{db_id}", settings)
        if progress:
            progress(done, len(golds))
    total = {
        "mutants": sum(report.mutants for report in reports.values()),
        "killed_by_original": sum(report.killed_by_original for report in reports.values()),
        "killed": sum(report.killed for report in reports.values()),
    }
    content = {"seed": seed, "total": total, "databases": {name: asdict(report) for name, report in reports.items()}}
    temporary = folder / f".{REPORT_FILE}"
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / REPORT_FILE)
    return reports


def _fuzz(
    db_id: str, golds: list[str], source: Path, folder: Path, num_variants: int, seed: str, settings: EvalSettings
) -> DatabaseReport:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile(source, folder / f"{db_id}{source.suffix}")
    alive = [(gold, mutant) for gold in golds for mutant in mutants(gold)]
    alive, invalid = _survivors(alive, source, settings)
    num_mutants = sum(len(mutants(gold)) for gold in golds) - invalid
    after_original = len(alive)
    values = _merged(golds)
    kept = idle = 0
    for number in range(4 * num_variants):
        if kept >= num_variants or idle >= _PATIENCE or not alive:
            break
        candidate = folder / f".candidate{source.suffix}"
        make_variant(source, candidate, values, f"{seed}/{number}")
        rest, _invalid = _survivors(alive, candidate, settings)
        if len(rest) == len(alive) or not _all_execute(golds, candidate, settings):
            candidate.unlink()
            idle += 1
            continue
        candidate.replace(folder / f"variant_{kept:02d}{source.suffix}")
        alive, kept, idle = rest, kept + 1, 0
    return DatabaseReport(len(golds), num_mutants, num_mutants - after_original, num_mutants - len(alive), kept)


def _survivors(pairs: list[tuple[str, str]], path: Path, settings: EvalSettings) -> tuple[list[tuple[str, str]], int]:
    """Mutants that give their gold's result on this database, and how many don't execute at all."""
    found = compare([Pair(gold, mutant, path) for gold, mutant in pairs], GoldCache(settings), check_ties=False)
    invalid = sum(item.kind is not Kind.OK for item in found)
    return [pair for pair, item in zip(pairs, found, strict=True) if item.ex_bag], invalid


def _all_execute(golds: list[str], path: Path, settings: EvalSettings) -> bool:
    cache = GoldCache(settings)
    cache.fill([(path, gold) for gold in golds], check_ties=False)
    return all(cache.get(path, gold).result.is_ok for gold in golds)


def _merged(golds: list[str]) -> dict[str, set[Any]]:
    merged: dict[str, set[Any]] = defaultdict(set)
    for gold in golds:
        for column, values in literals(gold).items():
            merged[column] |= values
    return merged
