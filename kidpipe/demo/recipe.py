"""The sizes and rates of the demos: chosen so that they end in time on two cores and still show something."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSize:
    """The shape of a Qwen2 model made from scratch."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int


@dataclass(frozen=True)
class DemoRecipe:
    """Everything that decides what the demo computes."""

    num_train: int = 24_000
    num_dev: int = 400
    num_distilled: int = 2_048
    """Training questions that imperfect data is built for, and that the students learn from: whole shards of 512."""
    vocab_size: int = 1536
    max_length: int = 512
    teacher: ModelSize = ModelSize(hidden_size=96, layers=3, heads=3, kv_heads=3, intermediate=256)
    teacher_steps: int = 3_250
    teacher_rate: float = 3e-3
    student: ModelSize = ModelSize(hidden_size=64, layers=3, heads=2, kv_heads=2, intermediate=192)
    start_steps: int = 1_000
    start_rate: float = 3e-3
    student_steps: int = 1_200
    student_rate: float = 2e-3
    views: int = 4
    batch_size: int = 16
    seed: int = 0


QUICK = DemoRecipe(
    num_train=120,
    num_dev=16,
    num_distilled=60,
    vocab_size=512,
    teacher=ModelSize(64, 2, 2, 1, 96),
    teacher_steps=6,
    student=ModelSize(64, 1, 2, 1, 64),
    start_steps=3,
    student_steps=3,
    views=2,
)
"""Shows that every step of the demo works, in seconds; the scores mean nothing."""


@dataclass(frozen=True)
class RealRecipe:
    """What decides what the demo on pre-trained models computes, beside the two models.

    For a teacher of 1.5 billion weights and a student of 0.5 the teacher takes three passes over 10,000 tokens (gold, holes,
    imperfect SQL), which is 80 TFLOP, and each student 200 passes over about 1,900, which is 110.
    """

    num_train: int = 200
    num_dev: int = 120
    views: int = 1
    epochs: float = 2.0
    batch_size: int = 16
    pack_tokens: int = 1024
    """A step of 16 questions has some 1,400; half the memory for activations costs little time."""
    holdout: float = 0.08
    max_new_tokens: int = 96
    seed: int = 0


QUICK_REAL = RealRecipe(num_train=24, num_dev=8, epochs=1.0, batch_size=8, holdout=0.2, max_new_tokens=8)
"""Shows that every step works; the scores mean nothing."""
