"""The settings of the stages between a tokenised prompt and what a student learns from: how models fill, score and answer."""

from typing import Literal

from pydantic import Field

from kidcore.config.settings import Dtype, Identity, Input, Later, ModelName, Section

Strategy = Literal["random", "uniform", "hard", "easy", "schema", "tables"]
READ_SQL: frozenset[Strategy] = frozenset({"schema", "tables"})
"""The strategies that read the text of the SQL, not its tokens alone."""
Fill = Literal["auto", "argmax", "sample", "argmax_wrong", "verify"]


class MaskSettings(Section):
    """Which tokens of the gold SQL are masked."""

    strategy: Identity[Strategy] = Field("random", description="how positions are chosen")
    ratio: Identity[float] = Field(0.2, gt=0, le=1, description="share of SQL tokens masked (alpha in the paper)")
    views: Input[int] = Field(2, ge=1, le=64, description="differently seeded corruptions per example; each its own shards")
    seed: Identity[int] = Field(0, ge=0, description="seed of the choice of positions")


class PredictSettings(Section):
    """How masked positions are filled."""

    predictor: Identity[Literal["teacher", "student"]] = Field(
        "teacher", description="the model that fills the holes; under fill = verify a student does"
    )
    student: Input[ModelName] = Field(
        "", description="student checkpoint that fills, with predictor = student or fill = verify; empty: train.student verified"
    )
    dtype: Later[Identity[Dtype]] = Field("auto", description="precision of a student that fills; auto = as stored")
    fill: Identity[Fill] = Field(
        "auto",
        description="which of the predictions is taken; auto = a teacher's argmax_wrong, a student's argmax; "
        "verify = a student's where the teacher accepts it, else the teacher's",
    )
    propose: Later[Identity[Literal["argmax", "sample", "argmax_wrong"]]] = Field(
        "argmax", description="which of the student's predictions is put before the teacher by fill = verify"
    )
    temperature: Identity[float] = Field(1.0, gt=0, le=10, description="temperature of fill or propose = sample")
    mask_token: Identity[str] = Field("auto", description="token put at masked positions; auto = mask, else pad, unk, eos")
    top_k: Identity[int] = Field(10, ge=2, le=64, description="predictions kept at each hole")
    seed: Identity[int] = Field(0, ge=0, description="seed of fill or propose = sample")

    @property
    def is_students(self) -> bool:
        """Whether a student fills the holes."""
        return self.predictor == "student" or self.fill == "verify"


class VerifySettings(Section):
    """Propose and verify (speculative knowledge distillation, Xu et al. 2025, arXiv 2410.11325), with predict.fill = verify."""

    top_k: Identity[int] = Field(
        25, ge=1, le=64, description="a student's token is kept where it is among so many of the teacher's best (the paper's: 25)"
    )


class OutcomeSettings(Section):
    """What becomes of imperfect SQL when it is executed: statistics, which nothing else depends on."""

    execute: Identity[bool] = Field(True, description="execute imperfect SQL and compare with gold, for the statistics")
    max_steps: Identity[int] = Field(100_000_000, ge=1000, description="SQLite steps per statement: a repeatable deadline")


class ScoreSettings(Section):
    """What is stored of the teacher's distributions."""

    top_k: Identity[int] = Field(64, ge=1, le=1024, description="most token ids stored per position")
    tail_mass: Identity[float] = Field(
        1e-4, ge=0, lt=1, description="stop storing ids where the mass outside them is below this; 0 = always top_k"
    )


class GenerateSettings(Section):
    """The teacher's own answers, which method seqkd trains on. Nothing else depends on them."""

    max_new_tokens: Identity[int] = Field(256, ge=1, description="longest answer, tokens; those that reach it are set aside")
    temperature: Identity[float] = Field(0.0, ge=0, le=10, description="temperature of sampling; 0 = greedy")
    samples: Input[int] = Field(1, ge=1, le=64, description="answers per prompt, each its own shards; epochs take turns")
    seed: Identity[int] = Field(0, ge=0, description="seed of sampling")


class RolloutSettings(Section):
    """A student's own answers, scored by the teacher once: method opd learns from them, and kid may mix them in."""

    model: Input[ModelName] = Field(
        "", description="the model that answers, folder or Hugging Face name; empty = train.student, the start of the run"
    )
    dtype: Identity[Dtype] = Field("auto", description="precision of its weights; auto = as stored")
    max_new_tokens: Identity[int] = Field(256, ge=1, description="longest answer, tokens; longer ones are cut there")
    temperature: Identity[float] = Field(1.0, ge=0, le=10, description="temperature of sampling; 0 = greedy")
    samples: Input[int] = Field(1, ge=1, le=64, description="answers per prompt, each its own shards; epochs take turns")
    seed: Identity[int] = Field(0, ge=0, description="seed of sampling")
