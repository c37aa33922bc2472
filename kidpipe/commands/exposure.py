"""A student's generations in, how much their errors add up against the teacher (ExAccErr) out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.generate import Predictions
from eval.metrics.exposure import Scores, measure, requests, score_answers
from eval.metrics.teacher_scores import built, keep, kept, key_of
from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError
from kidcore.models.backends.base import ScoreRequest
from kidcore.models.backends.select import open_model
from kidcore.models.encoding import TextEncoder
from kidcore.models.sources import ModelSource, resolve
from kidcore.models.teachers import require_top_k, resolve_teacher
from kidcore.models.tokenizers import eos_id, load_tokenizer, require_same
from kidcore.sql.datasets import DataSet
from kidcore.store.manifest import Manifest, read_manifest
from kidpipe.commands.session import Session

_TOP_K = 64
"""Tokens a position that the two models' distributions are compared on."""


@dataclass(frozen=True)
class ScoringTeacher:
    """Whose scores are wanted: known by its identity, so that stored scores are found; `source` only where it can be asked."""

    identity: str
    source: ModelSource | None
    tokenizer: Path
    manifest: Manifest | None
    """Of the build whose shards hold this teacher's scores; None where there is no such build."""


def find_teacher(session: Session) -> ScoringTeacher:
    """The configured teacher, else the one whose scores the store holds. Raises KidpipeError where there is neither."""
    config, root = session.config, session.store.root
    manifest = read_manifest(session.store)
    stage = manifest.stages.get("gold_score") if manifest else None
    built_by = stage.settings["teacher.weights"] if stage else None
    if config.teacher.model:
        source = resolve_teacher(config.teacher, session.store.digests)
        require_top_k(source, _TOP_K)
        return ScoringTeacher(source.identity, source, source.path, manifest if built_by == source.identity else None)
    if manifest is None or built_by is None:
        raise KidpipeError(
            "ExAccErr needs the teacher: none is named, and no build's scores are stored",
            where=str(root),
            fix="set teacher.model, or leave --exposure out",
        )
    return ScoringTeacher(built_by, None, root / "tokenizers" / manifest.facts.tokenizer, manifest)


def exposure(session: Session, teacher: ScoringTeacher, student: str, made: Predictions, dataset: DataSet) -> dict[str, Any]:
    """ExAccErr in percent on the prompts of `made`, and how many of the teacher's scores were stored.

    The student scores gold and its own answers, of examples whose gold both models take whole. The teacher's scores are read
    from the store; it is loaded only for those that are not there, and they are kept.
    """
    config = session.config
    source = resolve(student, digests=session.store.digests)
    tokenizer = load_tokenizer(source.path)
    require_same(load_tokenizer(teacher.tokenizer), tokenizer)
    encoder = TextEncoder(tokenizer)
    eos = teacher.manifest.facts.eos_id if teacher.manifest else eos_id(tokenizer)
    gold_sql = {example.example_id: example.gold_sql for example in dataset.examples}
    room = min([source.max_length, *([teacher.source.max_length] if teacher.source else [])])
    golds = {name: [*encoder.ids(gold_sql[name]), eos] for name in made.prompts}
    fitting = [name for name, prompt in made.prompts.items() if len(prompt) + len(golds[name]) <= room]
    prompts = [made.prompts[name] for name in fitting]

    def with_end(prompt: Sequence[int], ids: Sequence[int]) -> list[int]:
        # An answer that was cut at its longest, or where the model takes no more, never ended.
        has_ended = len(ids) < config.eval.max_new_tokens and len(prompt) + len(ids) < room
        return [*ids, *([eos] if has_ended else [])]

    own = [with_end(prompt, made.answers[name]) for name, prompt in zip(fitting, prompts, strict=True)]
    asked = requests(prompts, [golds[name] for name in fitting]) + requests(prompts, own)
    too_long = {"too_long": len(golds) - len(fitting)}
    if not asked:
        return {"exaccerr": math.nan, "exposure": {"answers": 0, "stored": 0, "scored": 0} | too_long}
    by_teacher, stored = _teachers(session, teacher, asked, set(fitting))
    by_student = _ask(session, source, config.eval.dtype, asked)
    pairs = list(zip(by_teacher, by_student, strict=True))
    value = measure(pairs[: len(fitting)], pairs[len(fitting) :])
    counts = {"answers": len(asked), "stored": stored, "scored": len(asked) - stored}
    return {"exaccerr": value, "exposure": counts | too_long}


def _teachers(
    session: Session, teacher: ScoringTeacher, asked: Sequence[ScoreRequest], example_ids: set[str]
) -> tuple[list[Scores], int]:
    """The teacher's scores, and how many of them were stored."""
    root, dtype = session.store.root, session.config.teacher.dtype
    keys = [key_of(request) for request in asked]
    folder = root / "exposure" / fingerprint({"teacher": teacher.identity, "dtype": dtype, "top_k": _TOP_K})
    known = kept(folder, set(keys))
    if teacher.manifest is not None and dtype == teacher.manifest.stages["gold_score"].settings.get("teacher.dtype", "auto"):
        known |= built(root, teacher.manifest, set(keys) - set(known), example_ids)
    stored = sum(key in known for key in keys)
    missing = {key: request for key, request in zip(keys, asked, strict=True) if key not in known}
    if missing and teacher.source is None:
        raise KidpipeError(
            f"the teacher's scores of {len(keys) - stored} of {len(keys)} answers are not stored",
            where=str(root),
            fix="set teacher.model: it is asked for those once, and they are kept; or leave --exposure out",
        )
    if missing and teacher.source is not None:
        scores = _ask(session, teacher.source, dtype, list(missing.values()))
        new = dict(zip(missing, scores, strict=True))
        keep(folder, new)
        known |= new
    return [known[key] for key in keys], stored


def _ask(session: Session, source: ModelSource, dtype: Any, asked: Sequence[ScoreRequest]) -> list[Scores]:
    top_k = min(_TOP_K, source.vocab_size)
    longest = max(len(request.token_ids) for request in asked)
    engine = session.config.engine
    backend = open_model(source, engine, dtype, max_top_k=top_k, max_length=longest, verbose=session.verbose)
    try:
        return score_answers(backend, asked, top_k)
    finally:
        backend.close()


def show(summary: Mapping[str, Any]) -> str:
    """ExAccErr as a line to read."""
    value, counts = summary["exaccerr"], summary["exposure"]
    why = "no error on gold" if counts["answers"] else "no sequence to score"
    said = f"undefined, {why}" if value is None or math.isnan(value) else f"{value:.1f} percent"
    left = f"; {counts['too_long']} examples left out, their gold is longer than a model takes" if counts["too_long"] else ""
    return f"{said}; the teacher's scores of {counts['stored']} of {counts['answers']} answers were stored{left}"
