"""Source examples in, tokenised prompts and gold SQL out; what can't be used is set aside with a reason."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kidcore.config.config import IngestSettings
from kidcore.errors import KidpipeError
from kidcore.models.prompts import Prompt, PromptBuilder
from kidcore.sql.datasets import DataSet, Example
from kidcore.sql.named_tables import named_tables
from kidcore.sql.sandbox.job import ResultKind
from kidcore.sql.sandbox.pool import SandboxPool
from kidcore.store.arrow import arrow_table
from kidcore.store.graph import Output, Task
from kidcore.store.schemas import schema_of
from pipeline.context import Context


def bind(context: Context) -> Callable[[Task], Output]:
    """The stage on the data set of `context`."""
    settings = context.config.ingest
    stage = IngestStage(settings, context.dataset, context.prompts, context.pool(settings.max_steps), context.max_length)
    return lambda task: stage(task, context.examples(task.part))


@dataclass
class IngestStage:
    """The ingest stage over one data set, with what it keeps between parts."""

    settings: IngestSettings
    dataset: DataSet
    prompts: PromptBuilder
    pool: SandboxPool
    max_length: int
    """Tokens of the longest sequence the model takes, EOS included."""

    def __call__(self, task: Task, examples: Sequence[Example]) -> Output:
        bad_gold = self._check_golds(examples)
        rows = []
        for example in examples:
            rows.append(self._row(example, bad_gold.get(example.example_id)))
            task.advance(1)
        reasons = Counter(row["reason"].partition(":")[0] for row in rows if row["reason"])
        table = arrow_table(schema_of("ingest"), {name: [row[name] for row in rows] for name in schema_of("ingest").names})
        counts = {"in": len(rows), "out": len(rows) - reasons.total(), "set_aside": dict(sorted(reasons.items()))}
        return Output(table, counts)

    def _row(self, example: Example, reason: str | None) -> dict[str, Any]:
        row: dict[str, Any] = {
            "example_id": example.example_id,
            "db_id": example.db_id,
            "question": example.question,
            "gold_sql": example.gold_sql,
            "schema_tokens": 0,
            "prompt_ids": [],
            "gold_ids": [],
            "gold_starts": [],
            "reason": example.fault or reason,
        }
        if example.fault:
            return row
        try:
            self.prompts.view(self.dataset.database(example.db_id), example.db_id)
            if reason:
                return row
            gold = self.prompts.sql(example.gold_sql)
            prompt = self._prompt(example, len(gold.ids))
        except KidpipeError as error:
            row["reason"] = error.what
            return row
        row["reason"] = self._too_long(len(prompt.ids), len(gold.ids))
        if not row["reason"]:
            row |= {
                "schema_tokens": prompt.schema_tokens,
                "prompt_ids": prompt.ids,
                "gold_ids": gold.ids,
                "gold_starts": gold.starts,
            }
        return row

    def _prompt(self, example: Example, gold: int) -> Prompt:
        """Where tables are left out to fit, never those of gold: training must not ask for what the prompt does not show."""
        database = self.dataset.database(example.db_id)
        keep: set[str] = set()
        if self.settings.fit == "tables":
            keep = named_tables(example.gold_sql, (table.name for table in self.prompts.view(database, example.db_id).tables))
        limit = min(self.settings.max_prompt_tokens, self.max_length - gold - 1)
        return self.prompts.build(database, example.db_id, example.question, example.evidence, limit=limit, keep=keep)

    def _too_long(self, prompt: int, gold: int) -> str | None:
        if not gold:
            return "gold SQL is empty"
        if prompt > self.settings.max_prompt_tokens:
            return f"prompt too long: {prompt} tokens, ingest.max_prompt_tokens is {self.settings.max_prompt_tokens}"
        if gold > self.settings.max_sql_tokens:
            return f"gold SQL too long: {gold} tokens, ingest.max_sql_tokens is {self.settings.max_sql_tokens}"
        if prompt + gold + 1 > self.max_length:
            return f"longer than the model: {prompt + gold + 1} tokens, it takes {self.max_length}"
        return None

    def _check_golds(self, examples: Sequence[Example]) -> dict[str, str]:
        """Reasons by example id for golds that don't execute; paraphrases share one execution."""
        if not self.settings.check_gold:
            return {}
        pairs = {(e.db_id, e.gold_sql): None for e in examples if not e.fault}
        databases = {db_id: self.dataset.database(db_id) for db_id, _sql in pairs}
        usable = {db_id for db_id, database in databases.items() if database.fault is None}
        jobs = [databases[db_id].job(sql, (db_id, sql)) for db_id, sql in pairs if db_id in usable]
        failed = {
            r.key: f"gold SQL fails: {r.message or r.kind.value}" for r in self.pool.run(jobs) if r.kind is not ResultKind.OK
        }
        return {e.example_id: failed[e.db_id, e.gold_sql] for e in examples if (e.db_id, e.gold_sql) in failed}
