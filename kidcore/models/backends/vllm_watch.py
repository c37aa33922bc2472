"""A vLLM engine in; an end to every wait for it, once its process is gone, out.

vLLM notices within a moment that the process of its engine died, and says so to whoever asks next; who waits for an answer
already waits for ever.
"""

import threading
from typing import Any

_LOOK_S = 1.0


class CoreWatch:
    """Looks after the process of an engine; an engine in this process needs none."""

    def __init__(self, llm: Any) -> None:
        self._client = llm.engine_core
        self._is_over = threading.Event()
        if hasattr(self._client, "resources") and hasattr(self._client, "outputs_queue"):
            threading.Thread(target=self._watch, name="watch over vLLM", daemon=True).start()

    @property
    def is_dead(self) -> bool:
        """Whether the engine had a process of its own, which is gone."""
        return bool(getattr(getattr(self._client, "resources", None), "engine_dead", False))

    def stop(self) -> None:
        """The engine is going to end on purpose."""
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            if self.is_dead:
                gone = RuntimeError("the process of the engine is gone")
                self._client.outputs_queue.put_nowait(gone)
                for answer in list(self._client.utility_results.values()):
                    if not answer.done():
                        answer.set_exception(gone)
                return
