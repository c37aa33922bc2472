"""How work tells that it goes on: rows just finished and rows under way, whenever there is news."""

from typing import Protocol


class Advance(Protocol):
    """Takes note of progress.

    `finished` rows are done since the last call. `under_way` rows are begun and not done: while they outnumber those that are
    finished, how fast those were says nothing of how long the rest will take.
    """

    def __call__(self, finished: int, under_way: int = 0, /) -> None: ...


def unheard(_finished: int, _under_way: int = 0, /) -> None:
    """Where nobody listens."""
