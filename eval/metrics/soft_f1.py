"""BIRD's two graded scores: rows in, Soft-F1 out; execution times in, the R-VES reward out.

Both follow the definitions of BIRD's mini-dev, quirks included, so that the numbers can stand beside published ones.
"""

from collections.abc import Sequence

import numpy as np

from kidcore.sql.results import Rows

_REWARDS = ((2.0, 1.25), (1.0, 1.0), (0.5, 0.75), (0.25, 0.5))
"""(at least this many times as fast as gold, reward)."""
_SLOWEST_REWARD = 0.25


def soft_f1(gold_rows: Rows, pred_rows: Rows) -> float:
    """How much of the gold's table the prediction gives, row by row in order, repeated rows once, columns in any order."""
    if not gold_rows and not pred_rows:
        return 1.0
    gold, pred = list(dict.fromkeys(gold_rows)), list(dict.fromkeys(pred_rows))
    hits = extra = missed = 0.0
    for gold_row, pred_row in zip(gold, pred, strict=False):
        found = sum(value in gold_row for value in pred_row)
        hits += found / len(gold_row)
        extra += (len(pred_row) - found) / len(gold_row)
        missed += sum(value not in pred_row for value in gold_row) / len(gold_row)
    # A row without a counterpart counts as one whole miss or one whole extra, however many columns it has.
    extra += max(0, len(pred) - len(gold))
    missed += max(0, len(gold) - len(pred))
    return 2 * hits / (2 * hits + extra + missed) if hits else 0.0


def ves_reward(gold_seconds: Sequence[float], pred_seconds: Sequence[float]) -> float:
    """The reward of a correct prediction by its speed: gold's time over its own, outliers beyond 3 deviations left out."""
    ratios = np.asarray(gold_seconds, dtype=np.float64) / np.asarray(pred_seconds, dtype=np.float64)
    spread = 3 * ratios.std()
    kept = ratios[(ratios < ratios.mean() + spread) & (ratios > ratios.mean() - spread)]
    # All ratios alike leave nothing strictly within; then their common value is the mean.
    ratio = float(kept.mean()) if len(kept) else float(ratios.mean())
    return next((reward for least, reward in _REWARDS if ratio >= least), _SLOWEST_REWARD)
