"""What vLLM's `/v1/completions` is sent and how its answers are read: token ids in, log-probabilities or token ids out."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kidcore.models.backends.base import Sampling, before_stop

_TOKEN = "token_id:"
_LIMIT = re.compile(r"max(?:imum)?\s+allowed:?\s+(\d+)")

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
"""What reading an answer of another form raises: JSON of any kind may come from what is no vLLM."""
Row = tuple[NDArray[np.int32], NDArray[np.float32], float]
"""Ids and log-probabilities of the likeliest tokens of a position, in any order, and that of the token that stands there."""


def whole_prompt(model: str, ids: Sequence[int], entries: int) -> dict[str, Any]:
    """Asks for all positions at once."""
    return _request(model, ids) | {"prompt_logprobs": entries}


def read_whole_prompt(answer: Mapping[str, Any], ids: Sequence[int], start: int) -> list[Row]:
    """The rows from position `start` on. Raises ValueError where they are missing or those of other tokens."""
    rows = answer["choices"][0].get("prompt_logprobs")
    if not isinstance(rows, list) or len(rows) != len(ids):
        raise ValueError("the answer holds no log-probabilities of the prompt")
    found = []
    for token, row in zip(ids[start:], rows[start:], strict=True):
        if str(token) not in row:
            raise ValueError("the answer holds log-probabilities of other tokens")
        values = {int(key): entry["logprob"] for key, entry in row.items()}
        found.append(_row(values, token))
    return found


def position(model: str, ids: Sequence[int], place: int, entries: int) -> dict[str, Any]:
    """Asks for one position: what stands there is all that may come next, and log-probabilities are taken before that."""
    wanted = {"logprobs": entries, "allowed_token_ids": [ids[place]], "return_tokens_as_token_ids": True}
    return _request(model, ids[:place]) | wanted


def read_position(answer: Mapping[str, Any], token: int) -> Row:
    """The row. Raises ValueError where the server did something else than it was asked."""
    found = (answer["choices"][0].get("logprobs") or {}).get("top_logprobs")
    if not found or not all(key.startswith(_TOKEN) for key in found[0]):
        raise ValueError("the answer names no token ids")
    values = {int(key.removeprefix(_TOKEN)): value for key, value in found[0].items()}
    if token not in values:
        raise ValueError("the answer leaves out the token it was given")
    return _row(values, token)


def continuation(
    model: str, ids: Sequence[int], tokens: int, stop_ids: Sequence[int], draw: Sampling | None, number: int
) -> dict[str, Any]:
    """Asks for at most `tokens` more."""
    drawn = {"temperature": draw.temperature, "seed": draw.seed_of(ids, number)} if draw else {}
    wanted = {"max_tokens": tokens, "stop_token_ids": list(stop_ids), "return_token_ids": True}
    return _request(model, ids) | wanted | drawn


def read_continuation(answer: Mapping[str, Any], stop_ids: set[int]) -> list[int]:
    """Its tokens, without the one that ended it. Raises ValueError where the answer is text only."""
    ids = answer["choices"][0].get("token_ids")
    if not isinstance(ids, list):
        raise ValueError("the answer holds no token ids")
    return before_stop([int(token) for token in ids], stop_ids)


def largest_top_k(message: str) -> int | None:
    """The limit that a refusal of too many log-probabilities states; None where it is about something else."""
    found = _LIMIT.search(message)
    return int(found[1]) if found and "logprobs" in message else None


def _request(model: str, ids: Sequence[int]) -> dict[str, Any]:
    fixed = {"max_tokens": 1, "temperature": 0, "ignore_eos": True}
    return {"model": model, "prompt": [int(token) for token in ids], **fixed}


def _row(values: Mapping[int, float], token: int) -> Row:
    ids = np.fromiter(values.keys(), dtype=np.int32, count=len(values))
    logprobs = np.fromiter(values.values(), dtype=np.float32, count=len(values))
    return ids, logprobs, float(values[token])
