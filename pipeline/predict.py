"""Masked gold out of two shards in, what the predictor puts in each hole out: one forward pass a row, no decoding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kidpipe.backends.base import Backend, ScoreRequest, TopK
from kidpipe.columns import lists, make_table
from kidpipe.config import PredictSettings
from kidpipe.graph import Output, Task
from kidpipe.schemas import PREDICT
from kidpipe.seeds import row_rng
from pipeline.rows import Tokens, by_shared_prefix, in_row_order, usable


def predict(settings: PredictSettings, tokens: Tokens, backend: Backend, task: Task) -> Output:
    """Fill the masked positions. Each hole sees mask tokens at the holes to its left: that is what makes it imperfect."""
    ingest, masks = usable(task.tables["ingest"]), task.tables["mask"]
    gold, prompts, masked = lists(ingest, "gold_ids"), lists(ingest, "prompt_ids"), lists(masks, "masked")
    example_ids = masks.column("example_id").to_pylist()
    assert ingest.column("example_id").to_pylist() == example_ids
    order = by_shared_prefix(prompts)
    requests = [_request(prompts[row], gold[row], masked[row], tokens.mask_id) for row in order]
    # Banned ids may be among the best: ask for that many more, so that enough real ones remain.
    wanted = min(settings.top_k + tokens.margin, backend.vocab_size)
    answers: list[TopK] = []
    for row, answer in zip(order, backend.score(requests, wanted), strict=True):
        answers.append(_holes(answer, masked[row], settings.top_k, tokens))
        task.tick(1)
    answers = in_row_order(order, answers)
    filled = [
        fill(settings, answer, gold[row][masked[row]], row_rng(settings.seed, "predict", example_ids[row], task.view))
        for row, answer in enumerate(answers)
    ]
    columns: dict[str, Any] = {
        "example_id": example_ids,
        "db_id": masks.column("db_id").to_pylist(),
        "view": masks.column("view").to_pylist(),
        "masked": masked,
        "filled_ids": filled,
        "hole_ids": [answer.ids.reshape(-1) for answer in answers],
        "hole_logprobs": [answer.logprobs.reshape(-1) for answer in answers],
    }
    return Output(make_table(PREDICT, columns), {"in": len(filled), "out": len(filled)})


def _request(prompt: NDArray[np.int32], gold: NDArray[np.int32], masked: NDArray[np.int32], mask_id: int) -> ScoreRequest:
    """Prompt and masked SQL up to the last hole: what stands after it is seen by none."""
    sql = gold[: masked[-1] + 1].copy()
    sql[masked] = mask_id
    return ScoreRequest(np.concatenate([prompt, sql]).astype(np.int32), len(prompt) + int(masked[0]))


def _holes(answer: TopK, masked: NDArray[np.int32], top_k: int, tokens: Tokens) -> TopK:
    """The best `top_k` tokens that are not banned, at the masked positions only; -1 pads where fewer are left."""
    at = masked - masked[0]
    ids, logprobs = answer.ids[at], answer.logprobs[at]
    allowed = ~np.isin(ids, list(tokens.banned)) & (ids < tokens.vocab_size)
    # A stable sort on "banned" keeps the order of the engine, best first.
    order = np.argsort(~allowed, axis=1, kind="stable")[:, :top_k]
    kept = np.take_along_axis(allowed, order, axis=1)
    return TopK(
        np.where(kept, np.take_along_axis(ids, order, axis=1), -1).astype(np.int32),
        np.where(kept, np.take_along_axis(logprobs, order, axis=1), -np.inf).astype(np.float32),
        answer.actual_logprob[at],
    )


def fill(settings: PredictSettings, holes: TopK, gold: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int32]:
    """The token for each hole; the gold token where no prediction is allowed.

    `argmax` takes the best, `argmax_wrong` the best that is not gold, `sample` draws from the kept top K at the
    temperature (by the Gumbel trick, so that one draw a candidate decides).
    """
    if settings.fill == "argmax":
        best = holes.ids[:, 0]
    elif settings.fill == "argmax_wrong":
        wrong = (holes.ids != gold[:, None]) & (holes.ids >= 0)
        best = np.where(wrong.any(axis=1), holes.ids[np.arange(len(gold)), wrong.argmax(axis=1)], gold)
    else:
        noisy = holes.logprobs / settings.temperature + rng.gumbel(size=holes.logprobs.shape)
        best = holes.ids[np.arange(len(gold)), noisy.argmax(axis=1)]
    return np.where(best >= 0, best, gold).astype(np.int32)
