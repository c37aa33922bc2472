"""Masked gold out of two shards in, what the predictor puts in each hole out; the rules are kidcore.method.filling'."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from kidcore.config.seeds import row_rng
from kidcore.config.stage_settings import PredictSettings
from kidcore.method.filling import fill, predictions, request, wanted
from kidcore.models.backends.base import Backend, TopK
from kidcore.models.tokenizers import Tokens
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output, Task
from kidcore.store.schemas import schema_of
from pipeline.context import Context
from pipeline.rows import by_shared_prefix, in_row_order, usable


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage under the settings of `context`, with its predictor."""
    return lambda task: predict(context.config.predict, context.tokens, context.open_predictor(), task)


def predict(settings: PredictSettings, tokens: Tokens, backend: Backend, task: Task) -> Output:
    """Fill the masked positions of each row."""
    ingest, masks = usable(task.tables["ingest"]), task.tables["mask"]
    gold, prompts, masked = lists(ingest, "gold_ids"), lists(ingest, "prompt_ids"), lists(masks, "masked")
    example_ids = masks.column("example_id").to_pylist()
    assert ingest.column("example_id").to_pylist() == example_ids
    order = by_shared_prefix(prompts)
    requests = [request(prompts[row], gold[row], masked[row], tokens.mask_id) for row in order]
    scored = backend.score(requests, wanted(settings.top_k, tokens, backend.vocab_size), task.advance)
    found = [predictions(answer, masked[row], settings.top_k, tokens) for row, answer in zip(order, scored, strict=True)]
    answers = in_row_order(order, found)
    return predicted(settings, masks, gold, answers, task.view)


def predicted(settings: PredictSettings, masks: pa.Table, gold: list[Any], holes: list[TopK], view: int) -> Output:
    """The shard of these predictions, the holes filled by the rule of `settings`.

    Args:
        masks: example_id, db_id, view and masked positions of each row.
        gold: ids of the gold SQL of each row.
        holes: predictions at the masked positions of each row.
    """
    example_ids, masked = masks.column("example_id").to_pylist(), lists(masks, "masked")
    filled = [
        fill(settings, answer, gold[row][masked[row]], row_rng(settings.seed, "predict", example_ids[row], view))
        for row, answer in enumerate(holes)
    ]
    columns: dict[str, Any] = {
        "example_id": example_ids,
        "db_id": masks.column("db_id").to_pylist(),
        "view": masks.column("view").to_pylist(),
        "masked": masked,
        "filled_ids": filled,
        "hole_ids": [answer.ids.reshape(-1) for answer in holes],
        "hole_logprobs": [answer.logprobs.reshape(-1) for answer in holes],
    }
    return Output(arrow_table(schema_of("predict"), columns), {"in": len(filled), "out": len(filled)})
