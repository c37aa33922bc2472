"""What a model thinks of gold SQL, as sums over examples in; figures to read, and what is wrong with them in words, out."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

STOP_NLL = 3.0
"""From here on a model does not know how to stop: it ends one answer in twenty where the SQL ends."""
_TOKEN_NLL = 1.5
_FIRST_CHOICE = 0.5
_BETTER, _FEW, _BETTER_ON_FEW = 0.9, 30, 0.6
"""A student's NLL below this share of its teacher's is more than the noise of a holdout; of a few answers, below the last."""

_FINE_TUNE = "fine-tune it first: kidpipe teacher"


def read_sums(document: Any, names: Iterable[str], of: Callable[[Sequence[float]], T]) -> T | None:
    """`of` the sums that stand under `names` in a document of JSON; None where they do not."""
    if not isinstance(document, Mapping):
        return None
    try:
        return of([document[name] for name in names])
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class GoldKnowledge:
    """Sums over gold SQL, each answer's end of sequence apart. NLLs are in nats."""

    tokens: int = 0
    """Gold tokens, without the ends of sequences."""
    nll_sum: float = 0.0
    first: int = 0
    """Of the tokens, those that the model would choose first."""
    answers: int = 0
    stop_nll_sum: float = 0.0
    """Of the end of sequence after each SQL."""

    @property
    def nll(self) -> float:
        """NLL per gold token; nan without any."""
        return self.nll_sum / self.tokens if self.tokens else math.nan

    @property
    def first_choice(self) -> float:
        """Share of gold tokens that are the model's first choice."""
        return self.first / self.tokens if self.tokens else math.nan

    @property
    def stop_nll(self) -> float:
        """NLL of the end of sequence per answer."""
        return self.stop_nll_sum / self.answers if self.answers else math.nan

    @property
    def stop_probability(self) -> float:
        """Of stopping after the SQL: the geometric mean over answers."""
        return math.exp(-self.stop_nll)

    @property
    def answer_nll(self) -> float:
        """NLL of a whole answer, its end included."""
        return (self.nll_sum + self.stop_nll_sum) / self.answers if self.answers else math.nan

    def __add__(self, other: "GoldKnowledge") -> "GoldKnowledge":
        return GoldKnowledge.of([ours + theirs for ours, theirs in zip(self.sums(), other.sums(), strict=True)])

    def sums(self) -> tuple[int, float, int, int, float]:
        """The fields in their order."""
        return self.tokens, self.nll_sum, self.first, self.answers, self.stop_nll_sum

    @classmethod
    def of(cls, sums: Sequence[float]) -> "GoldKnowledge":
        """What `sums` gave."""
        tokens, nll, first, answers, stop = sums
        return cls(int(tokens), float(nll), int(first), int(answers), float(stop))

    @classmethod
    def of_answers(
        cls, logprobs: "Sequence[NDArray[np.floating[Any]]]", firsts: "Sequence[NDArray[np.bool_]]"
    ) -> "GoldKnowledge":
        """From each answer's log-probabilities, its end of sequence last, and whether each token is the first choice."""
        return cls(
            tokens=sum(len(row) - 1 for row in logprobs),
            nll_sum=-math.fsum(float(row[:-1].sum(dtype="float64")) for row in logprobs),
            first=sum(int(row[:-1].sum()) for row in firsts),
            answers=len(logprobs),
            stop_nll_sum=-math.fsum(float(row[-1]) for row in logprobs),
        )

    def as_json(self) -> dict[str, Any]:
        """The sums, for `from_json`, and the figures; what is undefined is None."""
        figures = {name: getattr(self, name) for name in ("nll", "first_choice", "stop_nll", "stop_probability")}
        return asdict(self) | {name: value if math.isfinite(value) else None for name, value in figures.items()}

    @classmethod
    def from_json(cls, document: Any) -> "GoldKnowledge | None":
        """What `as_json` gave; None for anything else."""
        return read_sums(document, cls.__dataclass_fields__, cls.of)

    def __str__(self) -> str:
        return (
            f"NLL {self.nll:.3f} a gold token, {self.first_choice:.1%} of them its first choice; stops after the SQL with "
            f"probability {self.stop_probability:.2g} (NLL {self.stop_nll:.2f})"
        )


def teachers_faults(teacher: GoldKnowledge) -> list[str]:
    """What speaks against distilling from a teacher that thinks so of gold, and what to do; empty where nothing does."""
    found = []
    if teacher.stop_nll > STOP_NLL:
        found.append(
            f"the teacher does not know how to stop: after the SQL it ends its answer with probability "
            f"{teacher.stop_probability:.2g}, and its student learns that; {_FINE_TUNE} (a chat model may stop within its chat "
            f"template only: ingest.chat = auto compares)"
        )
    if teacher.nll > _TOKEN_NLL or teacher.first_choice < _FIRST_CHOICE:
        found.append(
            f"the teacher knows gold badly: {teacher.first_choice:.0%} of gold tokens are its first choice, NLL "
            f"{teacher.nll:.2f} a token; {_FINE_TUNE}"
        )
    return found


def students_advantage(student: GoldKnowledge, teacher: GoldKnowledge) -> list[str]:
    """In what a student knows gold better than its teacher, and what to do; empty where it does not."""
    found, share = [], _BETTER if student.answers >= _FEW else _BETTER_ON_FEW
    if student.nll < share * teacher.nll:
        found.append(
            f"the student knows gold better than its teacher before it learns from it: NLL {student.nll:.3f} a token on the "
            f"holdout, the teacher's {teacher.nll:.3f} on all questions; {_FINE_TUNE}, or train with method sft"
        )
    if student.stop_nll < share * teacher.stop_nll and teacher.stop_nll > 1:
        found.append(
            f"the student knows better than its teacher when to stop: it ends an answer after the SQL with probability "
            f"{student.stop_probability:.2g}, the teacher with {teacher.stop_probability:.2g}; {_FINE_TUNE}"
        )
    return found
