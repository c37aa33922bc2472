"""Pairs of gold and correct prediction in; BIRD's R-VES rewards, from times taken in the sandbox, out."""

from collections.abc import Sequence

from eval.execution import Pair, ProgressCallback, gold_text, limits_of, pred_text
from eval.metrics.soft_f1 import ves_reward
from kidcore.config.config import EvalSettings, SandboxSettings
from kidcore.sql.sandbox.pool import SandboxPool


def measure_rewards(
    pairs: Sequence[Pair], settings: EvalSettings, sandbox: SandboxSettings, progress: ProgressCallback | None = None
) -> list[float]:
    """The reward of each prediction, which must be right; a timing, so it differs from machine to machine and run to run.

    Gold and prediction take turns in one worker on one connection: whatever slows the machine slows both. A statement that
    fails now though it didn't before counts with the time until it failed.
    """
    rewards = []
    with SandboxPool(limits_of(settings, sandbox, sandbox.gold_timeout_s), workers=1) as pool:
        for pair in pairs:
            database = pair.on
            texts = (gold_text(pair.gold_sql, settings, database.dialect), pred_text(pair.pred_sql, settings, database.dialect))
            turns = [database.job(sql) for sql in texts]
            # One warm-up each: the first execution reads the file.
            seconds = [result.seconds for result in pool.run(job for _ in range(settings.ves_repeats + 1) for job in turns)][2:]
            rewards.append(ves_reward(seconds[0::2], seconds[1::2]))
            if progress:
                progress(len(rewards), len(pairs))
    return rewards
