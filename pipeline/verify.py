"""A student's proposals for the holes in, those that the teacher accepts and its own in the place of the others out.

It runs with predict.fill = verify alone; the rules are kidcore.method.filling's.
"""

from collections.abc import Callable
from typing import Any

from kidcore.config.seeds import row_rng
from kidcore.config.stage_settings import PredictSettings
from kidcore.method.filling import predictions, proposal, put, verify, wanted
from kidcore.models.backends.base import Backend
from kidcore.models.tokenizers import Tokens
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output, Task
from kidcore.store.schemas import schema_of
from pipeline.context import Context
from pipeline.rows import by_shared_prefix, in_row_order, usable


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage under the settings of `context`, with its teacher."""
    config = context.config
    return lambda task: verify_rows(config.predict, config.verify.top_k, context.tokens, context.open_teacher(), task)


def verify_rows(settings: PredictSettings, top_k: int, tokens: Tokens, backend: Backend, task: Task) -> Output:
    """Put each row's proposals before the teacher.

    Args:
        top_k: how many of the teacher's best a proposal must be among.
    """
    ingest, predicted = usable(task.tables["ingest"]), task.tables["predict"]
    gold, prompts = lists(ingest, "gold_ids"), lists(ingest, "prompt_ids")
    masked, proposed = lists(predicted, "masked"), lists(predicted, "filled_ids")
    example_ids = predicted.column("example_id").to_pylist()
    assert ingest.column("example_id").to_pylist() == example_ids
    order = by_shared_prefix(prompts)
    requests = [proposal(prompts[row], put(gold[row], masked[row], proposed[row]), masked[row]) for row in order]
    # The teacher's own token may be its second best, where the best is gold and an error is wanted.
    asked = max(top_k, settings.top_k)
    scored = backend.score(requests, wanted(asked, tokens, backend.vocab_size), task.advance)
    found = [predictions(answer, masked[row], asked, tokens) for row, answer in zip(order, scored, strict=True)]
    answers = in_row_order(order, found)
    picked = [
        verify(
            settings,
            top_k,
            proposed[row],
            answer,
            gold[row][masked[row]],
            row_rng(settings.seed, "verify", example_ids[row], task.view),
        )
        for row, answer in enumerate(answers)
    ]
    columns: dict[str, Any] = {
        "example_id": example_ids,
        "db_id": predicted.column("db_id").to_pylist(),
        "view": predicted.column("view").to_pylist(),
        "masked": masked,
        "filled_ids": [filled for filled, _ in picked],
        "accepted": [accepted for _, accepted in picked],
        "hole_ids": [answer.ids.reshape(-1) for answer in answers],
        "hole_logprobs": [answer.logprobs.reshape(-1) for answer in answers],
    }
    kept = sum(int(accepted.sum()) for _, accepted in picked)
    counts = {"in": len(picked), "out": len(picked), "proposed": sum(map(len, masked)), "accepted": kept}
    return Output(arrow_table(schema_of("verify"), columns), counts)
