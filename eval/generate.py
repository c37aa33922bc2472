"""A model and examples in, one predicted SQL text an example out, by id; examples whose prompt doesn't fit get a reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.execution import ProgressCallback
from kidcore.config.config import IngestSettings
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Backend, Sampling
from kidcore.models.prompts import PromptEncoder
from kidcore.models.tokenizers import eos_id, special_ids
from kidcore.sql.answers import read_answer
from kidcore.sql.datasets import Example
from kidcore.sql.schema_text import read_schema, render


@dataclass
class Predictions:
    """Predicted SQL by example id, and why there is none for the others."""

    sql: dict[str, str] = field(default_factory=dict)
    """With samples, the first of each."""
    reasons: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    """What `sql` was read from, as the model or the file has it, by example id."""
    samples: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    """What the samples were read from."""
    prompts: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    """Token ids of the first of each, without the stop token."""

    def choose(self, sql: Mapping[str, str]) -> None:
        """Take one of the samples of each example."""
        self.sql = dict(sql)
        self.said = {name: self.texts[name][self.samples[name].index(text)] for name, text in sql.items()}


def generate_predictions(
    backend: Backend,
    tokenizer: Any,
    examples: Sequence[Example],
    database: Callable[[str], Path],
    settings: IngestSettings,
    max_new_tokens: int,
    progress: ProgressCallback | None = None,
    sampling: Sampling | None = None,
) -> Predictions:
    """Greedy or sampled SQL for each example, from the prompt that `settings` describe (as the model was trained)."""
    predictions = Predictions()
    prompts = _prompts(backend, tokenizer, examples, database, settings, predictions)
    predictions.prompts = prompts
    stop_ids = sorted({eos_id(tokenizer), *special_ids(tokenizer)})
    asked = [example_id for example_id in prompts for _ in range(sampling.number if sampling else 1)]
    answers = backend.generate(list(prompts.values()), max_new_tokens, stop_ids, sampling)
    for done, (example_id, ids) in enumerate(zip(asked, answers, strict=True), 1):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        predictions.samples.setdefault(example_id, []).append(read_answer(text))
        predictions.texts.setdefault(example_id, []).append(text)
        predictions.answers.setdefault(example_id, ids)
        if progress:
            progress(done, len(asked))
    predictions.choose({example_id: sqls[0] for example_id, sqls in predictions.samples.items()})
    return predictions


def _prompts(
    backend: Backend,
    tokenizer: Any,
    examples: Sequence[Example],
    database: Callable[[str], Path],
    settings: IngestSettings,
    predictions: Predictions,
) -> dict[str, list[int]]:
    """Prompts by example id; what can't be asked is noted in `predictions`."""
    encoder = PromptEncoder(tokenizer, settings.chat)
    schemas: dict[str, str | KidpipeError] = {}
    prompts: dict[str, list[int]] = {}
    for example in examples:
        if example.fault:
            predictions.reasons[example.example_id] = example.fault
            continue
        if example.db_id not in schemas:
            try:
                schema = read_schema(database(example.db_id), example.db_id, settings.sample_rows)
                schemas[example.db_id] = render(schema, settings.template)
            except KidpipeError as error:
                schemas[example.db_id] = error
        text = schemas[example.db_id]
        if isinstance(text, KidpipeError):
            predictions.reasons[example.example_id] = text.what
            continue
        prompt = encoder.schema_ids(text) + encoder.question_ids(example.question, example.evidence)
        limit = min(settings.max_prompt_tokens, backend.max_length - 1)
        if len(prompt) > limit:
            predictions.reasons[example.example_id] = f"prompt too long: {len(prompt)} tokens, the limit is {limit}"
        else:
            prompts[example.example_id] = prompt
    return prompts
