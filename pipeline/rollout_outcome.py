"""A student's answers and gold in, whether they execute and give the gold result out: the kinds of error a student makes."""

from collections.abc import Callable

from kidcore.store.graph import Output, Task
from pipeline.context import Context
from pipeline.outcome import OutcomeStage


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage on the databases of `context`."""
    return OutcomeStage(context.dataset.database, context.pool(context.config.outcome.max_steps), queries="rollout")
