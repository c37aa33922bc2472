"""How far a student's likeliest tokens are among those stored of its teacher, as sums over positions in; figures to read out."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kidcore.method.knowledge import read_sums

MOST_COMPARED = 10
"""Of the student's likeliest tokens, so many are looked for at most, and no more than are stored at a position."""


@dataclass(frozen=True)
class Overlap:
    """Sums over positions with stored teacher scores.

    A teacher whose tokens a student hardly considers can tell it little: the student has to find them first. On-policy
    distillation is said to succeed where both agree on the likeliest tokens, and to stall where they do not.
    """

    positions: int = 0
    first: int = 0
    """Positions at which the student's first choice is stored."""
    compared: int = 0
    """Tokens of the student's likeliest that were looked for: at each position as many as are stored, at most MOST_COMPARED."""
    inside: int = 0
    """Of those, the stored ones."""
    mass_sum: float = 0.0
    """The student's probability of all stored tokens."""

    @property
    def first_inside(self) -> float:
        """Share of positions at which the student's first choice is stored; nan without any."""
        return self.first / self.positions if self.positions else math.nan

    @property
    def top_inside(self) -> float:
        """Share of the student's likeliest tokens that are stored."""
        return self.inside / self.compared if self.compared else math.nan

    @property
    def mass_inside(self) -> float:
        """The student's probability of the stored tokens, in the mean of the positions."""
        return self.mass_sum / self.positions if self.positions else math.nan

    @classmethod
    def of(cls, sums: Sequence[float]) -> "Overlap | None":
        """What sums in the order of the fields say; None where no position was looked at."""
        positions, first, compared, inside, mass = sums
        return cls(int(positions), int(first), int(compared), int(inside), float(mass)) if positions else None

    def as_json(self) -> dict[str, Any]:
        """The sums, for `from_json`, and the figures."""
        return asdict(self) | {name: getattr(self, name) for name in ("first_inside", "top_inside", "mass_inside")}

    @classmethod
    def from_json(cls, document: Any) -> "Overlap | None":
        """What `as_json` gave; None for anything else."""
        return read_sums(document, cls.__dataclass_fields__, cls.of)

    def __str__(self) -> str:
        return (
            f"the student's first choice is stored of the teacher at {self.first_inside:.1%} of positions; so are "
            f"{self.top_inside:.1%} of its likeliest tokens and {self.mass_inside:.1%} of its probability"
        )
