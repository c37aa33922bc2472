"""Values as DuckDB's Python client gives them in; values that compare by content and can leave the process out, and back."""

import decimal
import math
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

_NESTED = frozenset(("list", "array", "struct", "map", "union"))
_PART = re.compile(
    r"(?P<number>-?\d+) (?P<unit>year|month|day)s?"
    r"|(?P<sign>-?)(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)(?:\.(?P<fraction>\d+))?"
)
"""Of an interval's text."""
_MONTHS = {"year": 12, "month": 1}


def plain(value: Any) -> Any:
    """A value that compares by content and can leave the process; what Python has no plain type for goes as tagged text."""
    if value is None or isinstance(value, (int, str, bytes)):
        return value
    if isinstance(value, float):
        return ("nan",) if math.isnan(value) else value  # NaN equals NaN here, as NULL equals NULL
    if isinstance(value, decimal.Decimal):
        return _number(value)
    if isinstance(value, (list, tuple)):
        return ("list", *(plain(item) for item in value))
    if isinstance(value, dict):
        return ("struct", *((str(name), plain(item)) for name, item in sorted(value.items(), key=str)))
    return (type(value).__name__, str(value))


def untagged(value: Any) -> Any:
    """What `plain` or a reader of texts made plain, to be shown: lists and dicts again, and texts without their tag."""
    if not isinstance(value, tuple):
        return value
    tag, *inside = value
    if tag == "list":
        return [untagged(item) for item in inside]
    if tag == "struct":
        return {name: untagged(item) for name, item in inside}
    return inside[0] if inside else math.nan


def text_reader(kind: Any) -> Callable[[str], Any] | None:
    """For a column's type whose Python values lack something, what makes a plain value of its text; None for the others."""
    if kind.id in _READERS:
        return _READERS[kind.id]
    return _zoned if _holds(kind) else None


def _holds(kind: Any) -> bool:
    """Whether a value of such a type stands somewhere in the nested type."""
    if kind.id not in _NESTED:
        return kind.id in _READERS
    # An array's size is among what is in it, and is no type.
    return any(_holds(inside) for _name, inside in kind.children if hasattr(inside, "id"))


def _number(value: decimal.Decimal) -> Any:
    """A DECIMAL 1.50 is the DOUBLE 1.5; one of more digits than a DOUBLE has is none."""
    if value == value.to_integral_value():
        return int(value)
    number = float(value)
    return number if decimal.Decimal(repr(number)) == value else ("decimal", f"{value:f}".rstrip("0"))


def _zoned(text: str) -> Any:
    return ("datetime", text)


def _time(text: str) -> Any:
    return ("time", _as_python_writes(text))


def _datetime(text: str) -> Any:
    return ("datetime", _as_python_writes(text))


def _as_python_writes(text: str) -> str:
    """With six digits or none behind the second, where that is exact: so it equals the same time of a coarser type."""
    whole, _point, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction.ljust(6, '0')}" if fraction else whole


def _interval(text: str) -> Any:
    """Months and days are told apart, as there are shorter and longer months; a day is 24 hours, as in differences of times."""
    months = 0
    rest = timedelta()
    for part in _PART.finditer(text):
        if part["seconds"]:
            time = timedelta(hours=int(part["hours"]), minutes=int(part["minutes"]), seconds=int(part["seconds"]))
            time += timedelta(microseconds=int((part["fraction"] or "").ljust(6, "0")))
            rest += -time if part["sign"] else time
        elif part["unit"] == "day":
            rest += timedelta(days=int(part["number"]))
        else:
            months += int(part["number"]) * _MONTHS[part["unit"]]
    written = str(rest).replace(",", "")
    return ("interval", f"{months} months {written}" if months else written)


_READERS: dict[str, Callable[[str], Any]] = {
    # Python's need a package that DuckDB doesn't bring.
    "timestamp with time zone": _zoned,
    "timestamptz_ns": _zoned,
    # Python's have no nanoseconds, and take a month for 30 days.
    "timestamp_ns": _datetime,
    "time_ns": _time,
    "interval": _interval,
}
"""What makes a plain value of the text of such a type, by what DuckDB calls it."""
