"""The one exception that people see: what happened, where, and what to type next."""


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
