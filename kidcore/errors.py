"""The one exception that people see: what happened, where, and what to type next."""

import difflib
from collections.abc import Iterable


class KidpipeError(Exception):
    """A mistake or a condition that the person at the keyboard can mend.

    The CLI prints it without a traceback and exits with code 1; everything else that escapes is our own bug.

    Args:
        what: what happened, one sentence without a final full stop.
        where: the file, row, setting or shard it concerns; empty when `what` says it.
        fix: what to type or change next; empty only when nothing can be done.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The one of `known` that is most like `name`; empty where none is."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), "")


def first_line(error: BaseException) -> str:
    """What another library's exception says, on one line: its first, with the second where the first only announces it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
