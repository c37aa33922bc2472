"""Rows of 0 and 1 with the gold SQL they belong to in, scores with honest intervals out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2_000
_SEED = 0
_DRAWN = 1 << 17
"""Indices drawn at a time."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval."""

    value: float
    low: float
    high: float
    num_rows: int
    num_clusters: int


def estimate(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """The mean of `values`, with the percentile interval of a bootstrap over clusters.

    Questions that share their gold SQL stand or fall together: resampling rows as if they were independent would make the
    interval too narrow. The seed is fixed, so that the same rows give the same interval.
    """
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    sums, counts = _by_cluster(values, clusters)
    means = _resampled_means(sums, counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high), len(values), len(sums))


def estimate_crossed(values_SQ: NDArray[np.float64], clusters: Sequence[str]) -> Estimate:
    """The mean over S seeds and Q questions, with the interval of a bootstrap over both.

    Seeds and clusters of questions are resampled apart and crossed (the pigeonhole bootstrap: Owen, The Annals of Applied
    Statistics 1, 2007): an interval over questions alone says nothing of another seed, one over seeds nothing of other questions.
    It is a little too wide rather than too narrow. With a single seed it is that over questions.

    Args:
        values_SQ: of each seed and question; NaN takes the question out of all seeds.
        clusters: of each question, what stands or falls together.
    """
    known_Q = np.asarray(~np.isnan(values_SQ).any(axis=0))
    values_SQ = values_SQ[:, known_Q]
    if not values_SQ.size:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    numbers_Q, size = _numbered([name for name, is_known in zip(clusters, known_Q, strict=True) if is_known])
    sums_SC = np.stack([np.bincount(numbers_Q, weights=row_Q, minlength=size) for row_Q in values_SQ])
    counts_C = np.bincount(numbers_Q, minlength=size).astype(np.float64)
    random = np.random.default_rng(_SEED)
    means = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        seeds, chosen = random.integers(0, len(sums_SC), len(sums_SC)), random.integers(0, size, size)
        means[number] = sums_SC[seeds].mean(axis=0)[chosen].sum() / counts_C[chosen].sum()
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values_SQ.mean()), float(low), float(high), values_SQ.shape[1], size)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value of McNemar's test: how likely so uneven a split of flips is if neither is better."""
    flips = only_first + only_second
    if flips == 0:
        return 1.0
    smaller = min(only_first, only_second)
    logs = [math.lgamma(flips + 1) - math.lgamma(k + 1) - math.lgamma(flips - k + 1) for k in range(smaller + 1)]
    tail = math.fsum(math.exp(value - flips * math.log(2)) for value in logs)
    return min(1.0, 2 * tail)


def _numbered(clusters: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """The number of each row's cluster, and how many there are."""
    # Not NumPy's texts: each takes the memory of the longest, gigabytes where one gold is long.
    numbers = {name: number for number, name in enumerate(sorted(set(clusters)))}
    return np.fromiter((numbers[name] for name in clusters), np.int64, len(clusters)), len(numbers)


def _by_cluster(values: Sequence[float], clusters: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    numbers, size = _numbered(clusters)
    sums: NDArray[np.float64] = np.bincount(numbers, weights=np.asarray(values), minlength=size).astype(np.float64)
    return sums, np.bincount(numbers, minlength=size).astype(np.float64)


def _resampled_means(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    random = np.random.default_rng(_SEED)
    means = np.empty(_RESAMPLES)
    # Many at a time, as many as fit into some megabytes: the numbers drawn are those of one at a time.
    step = max(1, _DRAWN // len(sums))
    for start in range(0, _RESAMPLES, step):
        chosen = random.integers(0, len(sums), (min(step, _RESAMPLES - start), len(sums)))
        means[start : start + step] = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    return means
