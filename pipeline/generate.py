"""Prompts in, the teacher's own answers out: what method seqkd trains on. Answers that are no good are set aside."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from kidcore.config.stage_settings import GenerateSettings
from kidcore.models.backends.base import Backend
from kidcore.models.tokenizers import special_ids
from kidcore.store.arrow import arrow_table, lists
from kidcore.store.graph import Output, Task
from kidcore.store.schemas import schema_of
from pipeline.context import Context
from pipeline.rows import by_shared_prefix, in_row_order, usable
from pipeline.sampling import sampling_of


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage under the settings of `context`, with its teacher."""
    settings, stops = context.config.generate, sorted({context.tokens.eos_id, *special_ids(context.tokenizer)})

    def run(task: Task) -> Output:
        num_tokens, teacher = context.tokens.vocab_size, context.open_teacher()
        return generate(settings, stops, num_tokens, context.longest, context.decode, teacher, task)

    return run


def generate(
    settings: GenerateSettings,
    stop_ids: list[int],
    num_tokens: int,
    max_length: int,
    decode: Callable[[list[int]], str],
    backend: Backend,
    task: Task,
) -> Output:
    """One answer to each prompt, greedy or drawn; `task.view` is the number of the answer.

    Args:
        stop_ids: tokens that end an answer.
        num_tokens: of the tokenizer; ids from there on are padding of the teacher's vocabulary.
        max_length: tokens of the longest sequence, EOS included, that a student is promised to see.
    """
    ingest = usable(task.tables["ingest"])
    prompts, gold = lists(ingest, "prompt_ids"), lists(ingest, "gold_ids")
    order = by_shared_prefix(prompts)
    asked = [prompts[row].tolist() for row in order]
    sampling = sampling_of(settings, "generate", task.view)
    answers = in_row_order(order, list(backend.generate(asked, settings.max_new_tokens, stop_ids, sampling, task.advance)))
    reasons = [
        _reason(settings, num_tokens, max_length, len(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    columns: dict[str, Any] = {
        "example_id": ingest.column("example_id").to_pylist(),
        "db_id": ingest.column("db_id").to_pylist(),
        "view": [task.view] * len(answers),
        "prompt_ids": prompts,
        "generated_ids": answers,
        "generated_sql": [decode(answer) for answer in answers],
        "reason": reasons,
    }
    set_aside = Counter(reason.partition(":")[0] for reason in reasons if reason)
    same = sum(answer == sql.tolist() for answer, sql in zip(answers, gold, strict=True))
    counts = {"in": len(answers), "out": len(answers) - set_aside.total(), "set_aside": dict(sorted(set_aside.items()))}
    return Output(arrow_table(schema_of("generate"), columns), counts | {"tokens": sum(map(len, answers)), "gold": same})


def _reason(settings: GenerateSettings, num_tokens: int, max_length: int, prompt: int, answer: list[int]) -> str | None:
    """Why an answer is not trained on."""
    if not answer:
        return "generation is empty"
    if (strange := max(answer)) >= num_tokens:
        return f"generation has an id that is no token: {strange}, the tokenizer has {num_tokens}"
    if len(answer) >= min(settings.max_new_tokens, max_length - prompt):
        return f"generation cut off: {len(answer)} tokens, generate.max_new_tokens is {settings.max_new_tokens}"
    return None
