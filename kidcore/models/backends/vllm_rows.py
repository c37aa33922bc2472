"""A scored request's last rows of log-probabilities as arrays, out of vLLM's front end.

vLLM turns the rows of *all* prompt positions into Python lists, 23 ms for 2,048 tokens; only those of the SQL are read. Requests
that say how many rows they want (`asking_for`) get them as they came from the model; all other requests go vLLM's own way.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VERSION = "0.32.0"
"""The hook reaches into vLLM: a version it was not tried with goes the slow way."""
_ROWS = "kidpipe_rows"
_installed: list[type] = []


@dataclass(frozen=True)
class LastRows:
    """`ids` and `logprobs` [n, K + 1] of the last n prompt positions, the token that stands there first."""

    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)


def asking_for(rows: int) -> dict[str, Any]:
    """What to put into a request's sampling parameters."""
    return {"extra_args": {_ROWS: rows}}


def install(version: str) -> str:
    """Make vLLM, which is `version`, heed `asking_for` in this process. Why it can't be; empty when it can."""
    if version.partition("+")[0] != _VERSION:
        return f"vLLM is {version}, and the hook was tried with {_VERSION}"
    from vllm.v1.engine.logprobs import LogprobsProcessor, LogprobsTensors  # loaded since the engine was started

    if LogprobsProcessor in _installed:
        return ""
    fields = ("logprob_token_ids", "logprobs", "selected_token_ranks")
    arguments = list(inspect.signature(LogprobsProcessor._update_prompt_logprobs).parameters)
    if LogprobsTensors._fields[:3] != fields or arguments != ["self", "prompt_logprobs_tensors"]:
        return "its front end is another one"
    made, update = LogprobsProcessor.from_new_request.__func__, LogprobsProcessor._update_prompt_logprobs

    def from_new_request(cls: type, tokenizer: Any, request: Any) -> Any:
        processor = made(cls, tokenizer, request)
        processor.kidpipe_rows = (request.sampling_params.extra_args or {}).get(_ROWS)
        return processor

    def update_prompt_logprobs(self: Any, prompt_logprobs_tensors: Any) -> None:
        if not self.kidpipe_rows:
            update(self, prompt_logprobs_tensors)
            return
        ids, logprobs, *_ = (tensor[-self.kidpipe_rows :].numpy() for tensor in prompt_logprobs_tensors[:2])
        # Copies: a view would keep the rows of the whole prompt.
        self.prompt_logprobs = LastRows(ids.astype(np.int32), logprobs.astype(np.float32))

    LogprobsProcessor.from_new_request = classmethod(from_new_request)
    LogprobsProcessor._update_prompt_logprobs = update_prompt_logprobs
    _installed.append(LogprobsProcessor)
    return ""


def last_rows(answer: Any, count: int, width: int) -> LastRows:
    """The last `count` rows of what a request brought, `width` wide, whichever way it went; fewer where it brought fewer."""
    if isinstance(answer, LastRows):
        return answer
    ids = np.asarray(answer.token_ids[-count * width :], dtype=np.int32)
    logprobs = np.asarray(answer.logprobs[-count * width :], dtype=np.float32)
    whole = len(ids) // width
    return LastRows(ids[: whole * width].reshape(whole, width), logprobs[: whole * width].reshape(whole, width))
