"""`ingest.chat = auto`: a model and training questions in; whether its prompts go through the chat template, and why, out.

The model scores the gold SQL of a few questions, the end of an answer included, under both prompts: the likelier one is taken.
That is done once and kept in the store, so that plans, training and evaluations need no engine; keys hold what came out, as if it
had been written in the configuration.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kidcore.config.config import IngestSettings
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.method.knowledge import GoldKnowledge
from kidcore.models.backends.base import Backend, ScoreRequest
from kidcore.models.prompts import PROMPT_FOLDER, PromptBuilder, PromptDefinition, answer_end, prompt_identity
from kidcore.models.sources import ModelSource
from kidcore.models.tokenizer_files import TokenizerFiles
from kidcore.models.tokenizers import tokenizer_digest
from kidcore.sql.datasets import DataSet, Example
from kidcore.store.kept_knowledge import read_memory
from kidcore.store.store import Store

_FOLDER = "choices"


@dataclass(frozen=True)
class ChatChoice:
    """What `auto` came to."""

    chat: bool
    reason: str
    is_decided: bool = True
    """False where the model was not asked yet: then it is a guess."""
    plain_on_gold: Mapping[str, Any] | None = None
    chat_on_gold: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return f"{'with' if self.chat else 'without'} the chat template: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ChatQuestion:
    """What the choice follows from."""

    settings: IngestSettings
    model: ModelSource
    dtype: str
    tokenizer: TokenizerFiles
    dataset: DataSet
    sample: Sequence[Example]
    """The questions that are scored under both prompts."""
    longest: int
    """Tokens of the longest sequence that the model is asked for."""

    def choose(self, store: Store, engine: Callable[[], Backend] | None) -> ChatChoice:
        """Whether to take the chat template; asks the model only where nothing else decides, and never without `engine`.

        Raises:
            KidpipeError: the chat template refuses the prompt, or the engine the questions.
        """
        if not self.tokenizer.remembered("has a chat template", lambda it: bool(getattr(it, "chat_template", None))):
            return ChatChoice(False, "the tokenizer has none")
        if (self.model.path / PROMPT_FOLDER).is_dir():
            chat = PromptDefinition.load(self.model.path / PROMPT_FOLDER).chat
            return ChatChoice(chat, "the model was trained so")
        sample = self.sample
        prefix, content = self._prefix(), fingerprint([[e.db_id, e.question, e.evidence, e.gold_sql] for e in sample], 12)
        if (kept := _read(store, f"{prefix}-{content}")) is not None:
            return kept
        if engine is None:
            # Questions were added: what was decided on others is the best guess.
            others = sorted((store.root / _FOLDER).glob(f"{prefix}-*.json"), key=lambda path: path.stat().st_mtime_ns)
            guess = _read(store, others[-1].stem) if others else None
            why = "as on earlier questions" if guess else "not decided yet, the next build asks the model"
            return ChatChoice(bool(guess and guess.chat), why, is_decided=False)
        choice = self._ask(engine(), sample)
        store.write_json(f"{_FOLDER}/{prefix}-{content}.json", choice.as_json())
        return choice

    def _prefix(self) -> str:
        settings, tokenizer = self._as(True), self.tokenizer.tokenizer
        names = ("sample_rows", "column_values", "system", "chat_arguments", "fit", "max_prompt_tokens", "max_sql_tokens")
        asked = {name: getattr(settings, name) for name in names}
        prompt = prompt_identity(settings, tokenizer) | {"tokenizer": tokenizer_digest(tokenizer)}
        return f"chat-{fingerprint([self.model.identity, self.dtype, prompt, asked], 16)}"

    def _ask(self, backend: Backend, sample: Sequence[Example]) -> ChatChoice:
        tokenizer, both = self.tokenizer.tokenizer, [self._as(False), self._as(True)]
        sides = [(PromptBuilder.of(settings, tokenizer), answer_end(settings, tokenizer)) for settings in both]
        pairs = [pair for example in sample if (pair := self._requests(sides, example)) is not None]
        if not pairs:
            return ChatChoice(False, "none of the sampled questions can be asked")
        plain, chat = (_score(backend, [pair[side] for pair in pairs]) for side in (0, 1))
        reason = (
            f"NLL an answer of gold, {len(pairs)} questions: {plain.answer_nll:.2f} without, {chat.answer_nll:.2f} with it "
            f"(a token {plain.nll:.3f} and {chat.nll:.3f}, the end {plain.stop_nll:.2f} and {chat.stop_nll:.2f})"
        )
        return ChatChoice(chat.answer_nll < plain.answer_nll, reason, plain_on_gold=plain.as_json(), chat_on_gold=chat.as_json())

    def _requests(self, sides: Sequence[tuple[PromptBuilder, int]], example: Example) -> list[ScoreRequest] | None:
        """Gold behind each prompt, each with its own end; None where one of them can't be had."""
        found = []
        for builder, end in sides:
            try:
                gold = builder.sql(example.gold_sql).ids
                prompt = builder.build(
                    self.dataset.database(example.db_id), example.db_id, example.question, example.evidence
                ).ids
            except KidpipeError:
                return None
            ids = np.array([*prompt, *gold, end], dtype=np.int32)
            if not gold or len(gold) > self.settings.max_sql_tokens or len(ids) > self.longest:
                return None
            found.append(ScoreRequest(ids, len(prompt)))
        return found

    def _as(self, chat: bool) -> IngestSettings:
        # Arguments of a chat template mean nothing without one, and are refused there.
        update = {"chat": chat} if chat else {"chat": chat, "chat_arguments": {}}
        return self.settings.model_copy(update=update)


def _score(backend: Backend, requests: list[ScoreRequest]) -> GoldKnowledge:
    answers = list(backend.score(requests, 1))
    firsts = [answer.ids[:, 0] == request.token_ids[request.start :] for answer, request in zip(answers, requests, strict=True)]
    return GoldKnowledge.of_answers([answer.actual_logprob for answer in answers], firsts)


def _read(store: Store, name: str) -> ChatChoice | None:
    kept = read_memory(store, f"{_FOLDER}/{name}.json")
    try:
        return None if kept is None else ChatChoice(**kept)
    except TypeError:
        return None
