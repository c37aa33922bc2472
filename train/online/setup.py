"""What an online method needs beside shards and a student: the teacher that is asked during training, and how it is asked."""

from dataclasses import dataclass, field
from typing import Any

from kidcore.config.config import EngineSettings
from kidcore.config.stage_settings import MaskSettings, PredictSettings, ScoreSettings, VerifySettings
from kidcore.config.train_settings import TrainSettings
from kidcore.method.methods import METHODS
from kidcore.models.sources import ModelSource
from kidcore.models.tokenizers import Tokens
from kidcore.store.graph import settings_of


@dataclass(frozen=True)
class OnlineSetup:
    """What an online method needs beside shards and a student."""

    teacher: ModelSource
    dtype: str
    """Precision of the teacher's weights."""
    tokens: Tokens
    stop_ids: tuple[int, ...]
    """Tokens that end the student's answers."""
    max_length: int
    """Tokens of the longest sequence that both models take."""
    batch_tokens: int
    """Tokens of a forward pass without gradients."""
    score: ScoreSettings
    mask: MaskSettings
    predict: PredictSettings
    verify: VerifySettings = field(default_factory=VerifySettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    """How vLLM runs, where it generates in the student's place."""
    engine_length: int | None = None
    """Tokens of the longest prompt and answer that it is given; None = `max_length`."""

    def identity(self, settings: TrainSettings) -> dict[str, Any]:
        """What decides the losses of a run beside its own settings."""
        sections: dict[str, Any] = {"score": self.score}
        if METHODS[settings.method].fills_holes:
            sections |= {"mask": self.mask, "predict": self.predict}
            sections |= {"verify": self.verify} if self.predict.fill == "verify" else {}
        changed, _ = settings_of(**sections)
        return {"teacher": self.teacher.identity, "teacher.dtype": self.dtype, **changed}
