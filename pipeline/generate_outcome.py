"""The teacher's answers and gold in, whether they execute and give the gold result out: which of them are correct."""

from collections.abc import Callable

from kidcore.store.graph import Output, Task
from pipeline.context import Context
from pipeline.outcome import OutcomeStage


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage on the databases of `context`."""
    pool = context.pool(context.config.outcome.max_steps)
    return OutcomeStage(context.dataset.database, pool, queries="generate", sql="generated_sql")
