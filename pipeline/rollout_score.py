"""A student's answers in, the teacher's scores of them out: the same columns as those of other imperfect queries."""

from collections.abc import Callable

from kidcore.store.graph import Output, Task
from pipeline.context import Context
from pipeline.score import score


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage under the settings of `context`, with its teacher."""
    return lambda task: score(context.config.score, context.tokens, context.open_teacher, task, queries="rollout")
