"""Verdicts made without executing anything, for what only reads them."""

from typing import Any

from eval.verdicts import Verdict, VerdictKind

_WRONG = (VerdictKind.WRONG, VerdictKind.ERROR, VerdictKind.TIMEOUT, VerdictKind.REFUSED, VerdictKind.MISSING)


def verdict(example_id: str = "a", kind: VerdictKind = VerdictKind.CORRECT, **changes: Any) -> Verdict:
    """One verdict whose metrics fit its kind."""
    right = True if kind is VerdictKind.CORRECT else False if kind in _WRONG else None
    fields: dict[str, Any] = {
        "db_id": "world",
        "hardness": "easy",
        "gold_sql": f"SELECT {example_id!r}",
        "prediction": "SELECT 1",
        "ex_bag": right,
        "ex_set": right,
        "ts_bag": None,
        "exact_set_match": None,
        "soft_f1": None,
        "vacuous": False,
        "ties": False,
        "message": "",
        "seconds": 0.25,
    }
    return Verdict(example_id=example_id, kind=kind, **(fields | changes))
