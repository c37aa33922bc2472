"""Examples, predictions and databases in; verdicts by row in Parquet, a summary in JSON, and both in hand out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.databases import Databases
from eval.execution import GoldCache, Parts
from eval.report import summarize, write_evaluation
from eval.verdicts import Verdict, VerdictKind, judge
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.errors import KidpipeError
from kidcore.finite import finite
from kidcore.sql.datasets import Example

VERDICTS_FILE = "verdicts.parquet"
SUMMARY_FILE = "summary.json"
_GENERATING = ("max_new_tokens", "dtype", "samples", "sample_temperature", "sample_seed")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gave, and the folder it was written to."""

    verdicts: list[Verdict]
    summary: dict[str, Any]
    folder: Path


def judge_predictions(
    examples: Sequence[Example],
    predictions: Mapping[str, str],
    databases: Databases,
    settings: EvalSettings,
    folder: Path,
    reasons: Mapping[str, str] | None = None,
    notes: Mapping[str, Any] | None = None,
    parts: Parts | None = None,
    said: Mapping[str, str] | None = None,
    sandbox: SandboxSettings | None = None,
) -> Evaluation:
    """Judge predictions and write `verdicts.parquet` and `summary.json` into `folder`.

    Args:
        examples: what was asked; `settings.limit` of them are judged.
        predictions: predicted SQL by example id.
        databases: where to execute.
        settings: how to judge.
        folder: where the two files go.
        reasons: why there is no prediction, by example id.
        notes: goes into the summary as it is (model, data set, ...).
        parts: as in `judge`.
        said: what each prediction was read from, by example id.
        sandbox: what executes the SQL, and with which limits; None = the defaults.

    Raises:
        KidpipeError: a prediction belongs to no example, there is nothing to judge, or (after writing) no row could be judged.
    """
    examples = list(examples)
    require_known(predictions, examples)
    chosen = examples[: settings.limit] if settings.limit else examples
    if not chosen:
        raise KidpipeError("there are no examples to judge", fix="check data.path and data.dev")
    databases.require_suite()
    golds = GoldCache(settings, sandbox)
    verdicts = judge(chosen, predictions, databases, golds, reasons, parts, said)
    # How SQL is generated is no part of how what others made is judged.
    unused = {"limit"} if (notes or {}).get("model") else {"limit", *_GENERATING}
    how = {
        "limit": settings.limit or None,
        "settings": settings.model_dump(mode="json", exclude=unused),
        "sandbox": sandbox_limits(golds.sandbox),
    }
    untested = {"suite_untested": _untested(verdicts)} if databases.suite else {}
    summary: dict[str, Any] = finite({**(notes or {}), **how, **summarize(verdicts), **untested})
    write_evaluation(verdicts, summary, folder / VERDICTS_FILE, folder / SUMMARY_FILE)
    if not summary["judged"]:
        reason, count = next(iter(summary["unjudged"]["reasons"].items()))
        raise KidpipeError(
            f"none of {len(verdicts)} rows could be judged; {count}: {reason}",
            where=str(folder / VERDICTS_FILE),
            fix="check data.databases, and that the golds run",
        )
    return Evaluation(verdicts, summary, folder)


def sandbox_limits(sandbox: SandboxSettings) -> dict[str, Any]:
    """Its settings that can decide a verdict: all but the number of processes."""
    return sandbox.model_dump(mode="json", exclude={"workers"})


def _untested(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How many judged rows the suite says nothing of, as it has no database on which their gold runs, and by database."""
    rows = [verdict for verdict in verdicts if verdict.kind is not VerdictKind.GOLD_ERROR and verdict.ts_bag is None]
    return {"rows": len(rows), "databases": dict(Counter(verdict.db_id for verdict in rows).most_common())}


def require_known(predictions: Mapping[str, str], examples: Sequence[Example]) -> None:
    """Refuse predictions for examples that don't exist: they were made for other data, or the ids have shifted."""
    known = {example.example_id for example in examples}
    strangers = [name for name in predictions if name not in known]
    if strangers:
        shown = ", ".join(sorted(strangers)[:5])
        raise KidpipeError(
            f"{len(strangers)} of {len(predictions)} predictions belong to no example: {shown}",
            fix=f"ids here look like {', '.join(sorted(known)[:3])}; check that the predictions were made for this data set",
        )
