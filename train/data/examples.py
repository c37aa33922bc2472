"""What the trainer learns from, in memory: an example is one question with the SQL sequences that one step teaches."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TeacherTopK:
    """The stored distributions at the n supervised positions of a branch; flat, `count` ids to a position."""

    count: NDArray[np.int16]
    ids: Int32
    logprobs: NDArray[np.float16]
    tail: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Branch:
    """One sequence: a prompt and its SQL. Supervised are the SQL tokens and the EOS after them, n in all.

    The EOS is a target only, never an input: nothing is predicted from it.
    """

    tokens: Int32
    """Prompt and SQL, without the EOS."""
    start: int
    """Tokens of the prompt, at least 1."""
    eos_id: int
    learn_gold: bool
    """Whether the branch's own tokens are maximum-likelihood targets."""
    teacher: TeacherTopK | None
    is_gold: bool = False
    """Whether its SQL is the gold SQL, which may have a divergence of its own."""

    @property
    def num_supervised(self) -> int:
        return len(self.tokens) - self.start + 1

    @property
    def targets(self) -> Int32:
        """The n supervised tokens."""
        return np.append(self.tokens[self.start :], np.int32(self.eos_id)).astype(np.int32)


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """The branches of one question, which stay in one pack."""

    example_id: str
    db_id: str
    branches: tuple[Branch, ...]


def on_its_own(example: TrainingExample) -> TrainingExample:
    """The same with arrays of its own, which keep no shard in memory."""
    return replace(example, branches=tuple(_on_its_own(branch) for branch in example.branches))


def _on_its_own(branch: Branch) -> Branch:
    teacher = branch.teacher
    if teacher is not None:
        teacher = TeacherTopK(teacher.count.copy(), teacher.ids.copy(), teacher.logprobs.copy(), teacher.tail.copy())
    return replace(branch, tokens=branch.tokens.copy(), teacher=teacher)


@dataclass(frozen=True)
class Counts:
    """Supervised tokens by term; the trainer divides each term's sum by its count over the whole step."""

    mle: int
    kd: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.mle + other.mle, self.kd + other.kd)


def count_supervised(examples: list[TrainingExample]) -> Counts:
    """Tokens that the maximum-likelihood term and the divergence term see."""
    branches = [branch for example in examples for branch in example.branches]
    return Counts(
        mle=sum(branch.num_supervised for branch in branches if branch.learn_gold),
        kd=sum(branch.num_supervised for branch in branches if branch.teacher is not None),
    )
