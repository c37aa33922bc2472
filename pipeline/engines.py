"""Model sources in, one open engine at a time out: predict and score of one build share it."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from kidcore.config.config import EngineSettings
from kidcore.config.settings import Dtype
from kidcore.models.backends.base import Backend
from kidcore.models.backends.facts import EngineFacts
from kidcore.models.backends.select import open_model
from kidcore.models.sources import ModelSource


@dataclass
class EnginePool:
    """Opens a model when a stage first needs it and keeps it until another one is needed."""

    settings: EngineSettings
    max_top_k: int
    max_length: int
    """Tokens of the longest sequence that will be asked for."""
    verbose: bool = False
    used: EngineFacts | None = None
    """What was asked for last, until it is taken note of."""
    starting: Callable[[str], AbstractContextManager[None]] = field(default=lambda _what: nullcontext())
    """Entered while an engine starts, with what it is called."""
    start_s: float = 0.0
    """Seconds that engines took to start, until they are taken note of."""
    _current: Backend | None = None
    _identity: str = ""

    def open(self, model: ModelSource, dtype: Dtype) -> Backend:
        """The engine that holds `model` in the precision `dtype`."""
        identity = f"{model.identity} {dtype}"
        if self._current is None or self._identity != identity:
            self.close()
            began = time.perf_counter()
            with self.starting(f"the engine with {model.name}"):
                self._current = open_model(
                    model,
                    self.settings,
                    dtype,
                    max_top_k=min(self.max_top_k, model.vocab_size),
                    max_length=self.max_length,
                    verbose=self.verbose,
                )
            self.start_s += time.perf_counter() - began
            self._identity = identity
        self.used = self._current.facts
        return self._current

    def close(self) -> None:
        """Free the engine, if one is open."""
        if self._current is not None:
            self._current.close()
        self._current, self._identity = None, ""
