"""The gold sequence of each example in, the teacher's scores of it out."""

from collections.abc import Callable

from kidcore.store.graph import Output, Task
from pipeline.context import Context
from pipeline.score import gold_score


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage under the settings of `context`, with its teacher."""
    return lambda task: gold_score(context.config.score, context.tokens, context.open_teacher(), task)
