"""A configuration in; everything its stages need, found and checked before the first expensive second, out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from kidcore.config.config import Config
from kidcore.config.digests import FileDigests
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import Backend
from kidcore.models.backends.facts import EngineFacts
from kidcore.models.prompts import PromptBuilder, answer_end, prompt_identity
from kidcore.models.sources import ModelSource, require_whole
from kidcore.models.templates.template import load_template
from kidcore.models.tokenizer_files import TokenizerFiles
from kidcore.models.tokenizers import Tokens, eos_id, require_same, tokenizer_digest, tokens_of
from kidcore.sql.availability import lacking_of
from kidcore.sql.column_values import description_files
from kidcore.sql.datasets import DataSet, Example
from kidcore.sql.sandbox.job import Limits
from kidcore.sql.sandbox.pool import SandboxPool
from kidcore.store.graph import Partition
from kidcore.store.manifest import read_manifest
from kidcore.store.store import Store
from pipeline.chat import ChatChoice, ChatQuestion
from pipeline.engines import EnginePool
from pipeline.named_models import (
    find_model,
    find_predictor,
    find_start,
    find_teacher,
    recorded_teacher,
    tokenizer_of_served,
    warn_of_short_students,
)
from pipeline.outline import Outline, read_outlined, split_parts


@dataclass
class Context:
    """The resolved inputs of a build. Heavy parts (engine, sandbox) start when first used; `close` ends them."""

    config: Config
    dataset: DataSet
    outline: Outline
    parts: list[Partition]
    teacher: ModelSource | None
    """None for a build that stops before the teacher is needed, where none is named and none has worked here before."""
    predictor: ModelSource | None
    """None where it is not needed and cannot be found."""
    tokenizer_files: TokenizerFiles
    max_length: int
    start: ModelSource | None = None
    """The student whose answers are stored; None where no stage asks for it and it is no folder on this machine."""
    verbose: bool = False
    chat: ChatChoice | None = None
    """What `ingest.chat = auto` came to; None where the configuration says true or false itself."""

    def __post_init__(self) -> None:
        self._stack = ExitStack()
        self._pools: dict[int, SandboxPool] = {}
        self._dialects: dict[str, str] = {}
        self.engine_starting: Callable[[str], AbstractContextManager[None]] = lambda _what: nullcontext()
        """Entered while an engine starts, with what it is called."""

    def examples(self, part: Partition) -> Sequence[Example]:
        start = self._starts[part.index]
        return self.dataset.examples[start : start + part.rows]

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((part.rows for part in self.parts), initial=0))

    @property
    def tokenizer(self) -> Any:
        """Loaded when first asked for: a plan whose keys are known does without."""
        return self.tokenizer_files.tokenizer

    @cached_property
    def tokens(self) -> Tokens:
        """`eos_id` is what ends an answer to the prompts of the build."""
        tokens = tokens_of(self.tokenizer, self.config.predict.mask_token)
        return tokens if self.turn_end is None else replace(tokens, eos_id=self.turn_end)

    @cached_property
    def end_and_mask(self) -> tuple[int, int]:
        """Their ids in `tokens`; remembered, so that a build with nothing to do loads no tokenizer."""
        if self.config.ingest.chat is True:
            return self.tokens.eos_id, self.tokens.mask_id
        mask = self.config.predict.mask_token

        def find(tokenizer: Any) -> list[int]:
            tokens = tokens_of(tokenizer, mask)
            return [tokens.eos_id, tokens.mask_id]

        end, mask_id = self.tokenizer_files.remembered(f"end and mask {fingerprint(mask, 12)}", find)
        return end, mask_id

    @cached_property
    def turn_end(self) -> int | None:
        """The token that ends an answer, where that is not the tokenizer's end of sequence: in some chats."""
        if self.config.ingest.chat is not True:
            return None
        end = answer_end(self.config.ingest, self.tokenizer)
        return None if end == eos_id(self.tokenizer) else end

    @cached_property
    def prompts(self) -> PromptBuilder:
        return PromptBuilder.of(self.config.ingest, self.tokenizer)

    def dialect(self, db_id: str) -> str:
        """What the SQL of examples on this database is written in."""
        if db_id not in self._dialects:
            self._dialects[db_id] = self.dataset.database(db_id).dialect
        return self._dialects[db_id]

    @cached_property
    def dialects(self) -> list[str]:
        """Those of the whole data set, sorted."""
        return sorted({self.dialect(db_id) for db_id in self.outline.db_ids})

    def decode(self, ids: list[int]) -> str:
        """The text of SQL tokens."""
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def pool(self, max_steps: int) -> SandboxPool:
        """Processes that execute SQL, stopped after `max_steps`."""
        if max_steps not in self._pools:
            sandbox = self.config.sandbox
            # Counted steps decide which gold or imperfect SQL is too slow; wall time is only the net below them.
            limits = Limits(timeout_s=sandbox.gold_timeout_s, memory_mib=sandbox.memory_mib, max_steps=max_steps)
            self._pools[max_steps] = self._stack.enter_context(SandboxPool(limits, sandbox.workers))
        return self._pools[max_steps]

    @property
    def most_top_k(self) -> int:
        """The largest K that a stage asks for."""
        config = self.config
        verified = config.verify.top_k if config.predict.fill == "verify" else 0
        return max(config.score.top_k, max(config.predict.top_k, verified) + self.tokens.margin)

    @cached_property
    def engines(self) -> EnginePool:
        room = EnginePool(self.config.engine, self.most_top_k, self.longest, self.verbose, starting=self.engine_starting)
        self._stack.callback(room.close)
        return room

    def open_teacher(self) -> Backend:
        """The engine that holds the teacher."""
        assert self.teacher is not None
        return self.engines.open(self.teacher, self.config.teacher.dtype)

    def open_predictor(self) -> Backend:
        """The engine that holds the model that fills holes."""
        if not self.config.predict.is_students:
            return self.open_teacher()
        assert self.predictor is not None
        return self.engines.open(self.predictor, self.config.predict.dtype)

    def open_start(self) -> Backend:
        """The engine that holds the student whose answers are stored."""
        assert self.start is not None
        return self.engines.open(self.start, self.config.rollout.dtype)

    def take_engine(self) -> tuple[EngineFacts | None, float]:
        """The engine that was asked for since this was called last, or None, and the seconds that engines took to start."""
        engines: EnginePool | None = self.__dict__.get("engines")  # asking for the property would make one
        if engines is None:
            return None, 0.0
        taken = engines.used, engines.start_s
        engines.used, engines.start_s = None, 0.0
        return taken

    def release_engine(self) -> None:
        """Free the engine, if one is open."""
        engines: EnginePool | None = self.__dict__.get("engines")
        if engines is not None:
            engines.close()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that ingest lets through."""
        ingest = self.config.ingest
        return min(ingest.max_prompt_tokens + ingest.max_sql_tokens + 1, self.max_length)

    def identity(self) -> dict[str, Any]:
        """What goes into the keys of ingest beside its settings."""
        ingest = self.config.ingest
        identity = {"tokenizer": self.tokenizer_files.remembered("digest", tokenizer_digest)}
        identity |= prompt_identity(ingest, self.tokenizer if ingest.chat is True else None)
        template = load_template(ingest.template)
        if template.mentions(".description"):
            identity["descriptions"] = self._descriptions_digest
        if template.mentions(".values") and "duckdb" in self.dialects:
            # Up to kidpipe 0.1 dates, times and the like stood there without quotes.
            identity["values"] = "quoted"
        # A model as long as the settings allow changes nothing; a shorter one sets rows aside.
        if self.max_length < ingest.max_prompt_tokens + ingest.max_sql_tokens + 1:
            identity["max_length"] = str(self.max_length)
        return identity

    @cached_property
    def _descriptions_digest(self) -> str:
        """Of the files that describe columns, for a prompt that shows them."""
        databases = {self.dataset.database(db_id) for db_id in self.outline.db_ids}
        files = sorted(file for database in databases for file in description_files(database) if not database.refusal)
        known = FileDigests(None)
        return fingerprint([[file.parent.parent.name, file.name, known.digest(file)] for file in files], 16)

    def close(self) -> None:
        self._stack.close()


def open_context(
    config: Config, *, need_teacher: bool = True, need_start: bool = False, may_ask: bool = False, verbose: bool = False
) -> Context:
    """Resolve data, teacher, predictor and tokenizer.

    Args:
        need_teacher: False for a build that ends with ingest; the student's tokenizer serves when no teacher is named.
        need_start: True for a build with a student's own answers.
        may_ask: whether the model may be run where `ingest.chat = auto` is not decided yet.

    Raises:
        KidpipeError: anything named in the configuration is missing or does not fit together.
    """
    _refuse_idle_precision(config)
    store = Store(Path(config.store.path))
    digests = store.digests
    dataset, outline = read_outlined(config.data, config.ingest.shard_rows, store, digests)
    if not outline.num_examples:
        raise KidpipeError("the data set has no training examples", where=config.data.path, fix="check data.path")
    # Those of some examples are set aside by ingest; none at all is an error.
    lacking_of(dataset, outline.askers, outline.num_examples)
    teacher = find_teacher(config, need_teacher, digests)
    known = teacher or recorded_teacher(config)
    # Training comes hours after the build: a student that cannot be trained is said now.
    require_whole(config.train.student, digests)
    named = teacher or tokenizer_of_served(config, digests) or find_model(config.train.student, "train.student", digests)
    if named is None:
        raise KidpipeError(
            "no model whose tokenizer could be used", where="teacher.model", fix="set teacher.model or train.student"
        )
    tokenizer = TokenizerFiles(named.path, digests)
    tokenizer.remembered("readable", bool)
    predictor = find_predictor(config, need_teacher, digests) if config.predict.is_students else known
    start = find_start(config, need_start, digests)
    students = [(predictor, need_teacher and config.predict.is_students), (start, need_start)]
    for student in (student for student, is_needed in students if is_needed and student is not None):
        _require_same(tokenizer, TokenizerFiles(student.path, digests))
    context = Context(
        config=config,
        dataset=dataset,
        outline=outline,
        parts=split_parts(dataset, outline, digests),
        teacher=known,
        predictor=predictor,
        tokenizer_files=tokenizer,
        max_length=min(model.max_length for model in (named, predictor) if model is not None),
        start=start,
        verbose=verbose,
    )
    if may_ask:
        warn_of_short_students(config, start, context.longest)
    if config.ingest.chat == "auto":
        try:
            _settle_chat(context, named, is_teacher=teacher is not None, may_ask=may_ask)
        except BaseException:
            context.close()
            raise
    return context


def _refuse_idle_precision(config: Config) -> None:
    if not config.predict.is_students and config.predict.dtype != "auto":
        raise KidpipeError(
            "predict.dtype is that of a student that fills, and here the teacher does",
            where=f"predict.dtype = {config.predict.dtype}",
            fix="set teacher.dtype instead, or predict.predictor = student",
        )


def _settle_chat(context: Context, model: ModelSource, *, is_teacher: bool, may_ask: bool) -> None:
    """Put what `ingest.chat = auto` comes to in its place."""
    config, store = context.config, Store(Path(context.config.store.path))
    if context.teacher is not None and not is_teacher:
        # A teacher that is not here any more; asking the student instead could make all of its work stale.
        manifest = read_manifest(store)
        assert manifest is not None
        context.chat = ChatChoice(manifest.stages["ingest"].settings["ingest.chat"], "as in the latest build")
    else:
        dtype = config.teacher.dtype if is_teacher else "auto"
        sample = context.outline.sample
        question = ChatQuestion(config.ingest, model, dtype, context.tokenizer_files, context.dataset, sample, context.longest)
        # The engine stays open: the build goes on with it.
        context.chat = question.choose(store, (lambda: context.engines.open(model, dtype)) if may_ask else None)
        context.take_engine()
    # Arguments of a chat template mean nothing without one, and are refused there.
    update = {"chat": True} if context.chat.chat else {"chat": False, "chat_arguments": {}}
    context.config = config.model_copy(update={"ingest": config.ingest.model_copy(update=update)})


def _require_same(ours: TokenizerFiles, theirs: TokenizerFiles) -> None:
    """As `require_same`, once for each pair."""

    def is_same(tokenizer: Any) -> bool:
        require_same(tokenizer, theirs.tokenizer)
        return True

    ours.remembered(f"likeness to {theirs.state}", is_same)
