"""Several sampled predictions an example in, the one whose result most of them agree on out."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from eval.execution import ProgressCallback, limits_of
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.sql.database import Database, database_of
from kidcore.sql.datasets import Example
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
        jobs = (on.job(sql, (example_id, sql)) for example_id, sql, on in wanted)
        ballots: dict[tuple[str, str], object] = {}
        for result in pool.run(jobs):
            ballots[result.key] = _ballot(result)
            if progress:
                progress(len(ballots), len(wanted))
    return {
        example.example_id: _winner(example.example_id, samples[example.example_id], ballots)
        for example in examples
        if samples.get(example.example_id)
    }


def _ballot(result: QueryResult) -> object:
    """What equal results have in common; None where there is no result."""
    if not result.is_ok:
        return None
    columns = Counter(frozenset(Counter(column).items()) for column in zip(*result.rows, strict=True))
    return result.num_rows, frozenset(columns.items())


def _winner(example_id: str, sqls: Sequence[str], ballots: Mapping[tuple[str, str], object]) -> str:
    votes = [ballots[example_id, sql] for sql in sqls]
    counts = Counter(ballot for ballot in votes if ballot is not None)
    if not counts:
        return sqls[0]
    best = max(counts.values())
    return next(sql for sql, ballot in zip(sqls, votes, strict=True) if counts.get(ballot) == best)
