"""Masked gold in, what a predictor puts into its holes out: one forward pass a row, no decoding.

Each hole sees mask tokens at the holes to its left: that is what makes the result imperfect.
"""

import numpy as np
from numpy.typing import NDArray

from kidcore.config.stage_settings import PredictSettings
from kidcore.models.backends.base import ScoreRequest, TopK
from kidcore.models.tokenizers import Tokens


def wanted(top_k: int, tokens: Tokens, vocab_size: int) -> int:
    """How many predictions to ask for at a hole: banned ids may be among the best, and enough real ones must remain."""
    return min(top_k + tokens.margin, vocab_size)


def request(prompt: NDArray[np.int32], gold: NDArray[np.int32], masked: NDArray[np.int32], mask_id: int) -> ScoreRequest:
    """Prompt and masked SQL up to the last hole: what stands after it is seen by none."""
    sql = gold[: masked[-1] + 1].copy()
    sql[masked] = mask_id
    return ScoreRequest(np.concatenate([prompt, sql]).astype(np.int32), len(prompt) + int(masked[0]))


def predictions(answer: TopK, masked: NDArray[np.int32], top_k: int, tokens: Tokens) -> TopK:
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
    temperature (by the Gumbel trick, so that one draw a candidate decides). `auto`: a strong teacher's best is nearly always
    gold, which teaches nothing new (docs/results.md), so its best wrong token is taken; a student errs by itself. Under
    `verify` it is `settings.propose` that says which: of a student what it proposes, of the teacher what it puts in its place.
    """
    rule = settings.propose if settings.fill == "verify" else settings.fill
    if rule == "auto":
        rule = "argmax_wrong" if settings.predictor == "teacher" else "argmax"
    if rule == "argmax":
        best = holes.ids[:, 0]
    elif rule == "argmax_wrong":
        wrong = holes.ids != gold[:, None]
        best = np.where(wrong.any(axis=1), holes.ids[np.arange(len(gold)), wrong.argmax(axis=1)], gold)
    else:
        noisy = holes.logprobs / settings.temperature + rng.gumbel(size=holes.logprobs.shape)
        best = holes.ids[np.arange(len(gold)), noisy.argmax(axis=1)]
    return np.where(best >= 0, best, gold).astype(np.int32)


def proposal(prompt: NDArray[np.int32], proposed: NDArray[np.int32], masked: NDArray[np.int32]) -> ScoreRequest:
    """Prompt and SQL with a student's tokens at the masked positions, up to the last: what the teacher is to accept."""
    sql = proposed[: masked[-1] + 1]
    return ScoreRequest(np.concatenate([prompt, sql]).astype(np.int32), len(prompt) + int(masked[0]))


def verify(
    settings: PredictSettings,
    top_k: int,
    proposed: NDArray[np.int32],
    holes: TopK,
    gold: NDArray[np.int32],
    rng: np.random.Generator,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """The token for each hole, and whether it is the one proposed: kept among the teacher's best `top_k`, else the teacher's own.

    Propose and verify, as in speculative knowledge distillation (Xu et al. 2025, arXiv 2410.11325, algorithm 1), so that errors
    are a student's and yet such as the teacher could have made. There each token is decoded and verified in turn; here one pass
    verifies all holes, each behind the proposals at those to its left, kept or not.
    """
    accepted: NDArray[np.bool_] = (holes.ids[:, :top_k] == proposed[:, None]).any(axis=1)
    return np.where(accepted, proposed, fill(settings, holes, gold, rng)).astype(np.int32), accepted


def put(gold: NDArray[np.int32], masked: NDArray[np.int32], filled: NDArray[np.int32]) -> NDArray[np.int32]:
    """Gold with the predictions at the masked positions."""
    imperfect = gold.copy()
    imperfect[masked] = filled
    return imperfect
