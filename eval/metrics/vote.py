"""Several sampled predictions an example in, the one whose result most of them agree on out."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eval.execution import ProgressCallback, limits_of, pred_text
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.sql.database import Database, database_of
from kidcore.sql.datasets import Example
from kidcore.sql.results import Rows, same_bag
from kidcore.sql.sandbox.job import QueryResult
from kidcore.sql.sandbox.pool import SandboxPool


def vote(
    examples: Sequence[Example],
    samples: Mapping[str, Sequence[str]],
    database: Callable[[str], Database | Path],
    settings: EvalSettings,
    sandbox: SandboxSettings,
    progress: ProgressCallback | None = None,
) -> dict[str, str]:
    """The majority's prediction by example id; gold plays no part.

    Samples that execute vote for their bag of rows, column order and row order aside. Of the largest group the earliest
    sample is taken, of equal groups that with the earliest one; where nothing executes, the first sample.
    """
    wanted = [
        (example.example_id, sql, database_of(database(example.db_id), example.db_id))
        for example in examples
        for sql in dict.fromkeys(samples.get(example.example_id, ()))
    ]
    with SandboxPool(limits_of(settings, sandbox, sandbox.timeout_s), sandbox.workers) as pool:
        jobs = (on.job(pred_text(sql, settings, on.dialect), (example_id, sql)) for example_id, sql, on in wanted)
        groups: dict[tuple[str, object], list[Rows]] = {}
        ballots: dict[tuple[str, str], object] = {}
        for result in pool.run(jobs):
            ballots[result.key] = _ballot(result, groups)
            if progress:
                progress(len(ballots), len(wanted))
    return {
        example.example_id: _winner(example.example_id, samples[example.example_id], ballots)
        for example in examples
        if samples.get(example.example_id)
    }


def _ballot(result: QueryResult, groups: dict[tuple[str, object], list[Rows]]) -> object:
    """What equal results of an example have in common; None where there is no result.

    Args:
        groups: by example and values of the columns, one result of each bag of rows seen so far; gets those that are new.
    """
    if not result.is_ok:
        return None
    # Cheap to tell apart by: equal results have equal columns, but equal columns may be paired to other rows.
    columns = Counter(frozenset(Counter(column).items()) for column in zip(*result.rows, strict=True))
    alike = result.num_rows, frozenset(columns.items())
    known = groups.setdefault((result.key[0], alike), [])
    number = next((n for n, rows in enumerate(known) if same_bag(rows, result.rows, ordered=False)), len(known))
    if number == len(known):
        known.append(result.rows)
    return alike, number


def _winner(example_id: str, sqls: Sequence[str], ballots: Mapping[tuple[str, str], object]) -> str:
    votes = [ballots[example_id, sql] for sql in sqls]
    counts = Counter(ballot for ballot in votes if ballot is not None)
    if not counts:
        return sqls[0]
    best = max(counts.values())
    return next(sql for sql, ballot in zip(sqls, votes, strict=True) if counts.get(ballot) == best)
