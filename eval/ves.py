"""Verdicts in, BIRD's R-VES out: how fast the correct predictions are against their golds, timed in the sandbox."""

from collections.abc import Sequence

from eval.bird import r_ves, ves_reward
from eval.databases import Databases
from eval.execution import limits_of
from eval.verdicts import Verdict, VerdictKind
from kidpipe.config import EvalSettings
from kidpipe.sandbox.job import Job
from kidpipe.sandbox.pool import SandboxPool


def measure_r_ves(verdicts: Sequence[Verdict], databases: Databases, settings: EvalSettings, repeats: int = 100) -> float:
    """R-VES over all rows whose gold ran; a time, so it differs from machine to machine and run to run.

    Gold and prediction take turns in one worker on one connection: whatever slows the machine slows both.
    """
    judged = [verdict for verdict in verdicts if verdict.kind is not VerdictKind.GOLD_ERROR]
    correct = [verdict for verdict in judged if verdict.ex_set]
    rewards = [0.0] * (len(judged) - len(correct))
    with SandboxPool(limits_of(settings, settings.gold_timeout_s), workers=1) as pool:
        for verdict in correct:
            path = str(databases.path(verdict.db_id))
            pair = (Job(path, verdict.gold_sql), Job(path, verdict.prediction))
            # One warm-up each: the first execution reads the file.
            seconds = [result.seconds for result in pool.run(job for _ in range(repeats + 1) for job in pair)][2:]
            rewards.append(ves_reward(seconds[0::2], seconds[1::2]))
    return r_ves(rewards)
