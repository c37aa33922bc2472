"""A student's generations in, how much their errors add up against the teacher (ExAccErr) out."""

from typing import TYPE_CHECKING

from kidpipe.commands.session import Session
from kidpipe.config import IngestSettings
from kidpipe.digests import FileDigests
from kidpipe.errors import KidpipeError
from kidpipe.models import resolve
from kidpipe.prompts import PromptEncoder
from kidpipe.readers import DataSet

if TYPE_CHECKING:
    from eval.generate import Predictions

_TOP_K = 64
"""Tokens a position that the two models' distributions are compared on."""


def exposure(session: Session, student: str, made: "Predictions", dataset: DataSet, settings: IngestSettings) -> float:
    """ExAccErr in percent on the prompts of `made`; both models score, one after the other."""
    from eval.exposure import Scored, measure, score
    from kidpipe.backends.select import open_backend
    from kidpipe.tokenizers import eos_id, load, require_same

    config = session.config
    if not config.teacher.model:
        raise KidpipeError("ExAccErr needs the teacher", where="teacher.model", fix="set teacher.model, or leave --exposure out")
    digests = FileDigests(session.store.root / "digests.json")
    sources = [resolve(config.teacher.model, config.teacher.revision, digests=digests), resolve(student, digests=digests)]
    teachers, tokenizer = (load(source.path) for source in sources)
    require_same(teachers, tokenizer)
    encoder, eos = PromptEncoder(tokenizer, settings.chat), eos_id(tokenizer)
    gold_sql = {example.example_id: example.gold_sql for example in dataset.examples}
    golds = [[*encoder.sql_ids(gold_sql[name])[0], eos] for name in made.prompts]
    # An answer that was cut at its longest never ended.
    ended = {name: len(ids) < config.eval.max_new_tokens for name, ids in made.answers.items()}
    generations = [[*made.answers[name], *([eos] if ended[name] else [])] for name in made.prompts]
    prompts = list(made.prompts.values())
    longest = max(len(prompt) + max(len(gold), len(own)) for prompt, gold, own in zip(prompts, golds, generations, strict=True))
    scored: list[Scored] = []
    for source, dtype in zip(sources, (config.teacher.dtype, config.train.dtype), strict=True):
        top_k = min(_TOP_K, source.vocab_size)
        backend = open_backend(source.path, config.engine, dtype, max_top_k=top_k, max_length=longest, verbose=session.verbose)
        try:
            scored.append(score(backend, prompts, golds, generations, top_k))
        finally:
            backend.close()
    by_teacher, by_student = scored
    return measure(by_teacher, by_student)
