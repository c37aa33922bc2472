"""A configuration and a manifest in; the teacher that an online method asks during training, checked before it is loaded, out."""

from dataclasses import replace
from pathlib import Path

from kidcore.config import processes
from kidcore.config.config import Config
from kidcore.config.stage_settings import READ_SQL
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.method.methods import METHODS
from kidcore.models.backends.select import require_vllm, stored_dtype
from kidcore.models.sources import ModelSource
from kidcore.models.teachers import is_url, require_top_k, resolve_teacher
from kidcore.models.tokenizers import Tokens, load_tokenizer, require_same, special_ids, tokens_of
from kidcore.store.manifest import Manifest
from kidpipe.commands.session import Session
from train.online.setup import OnlineSetup


def online_setup(session: Session, manifest: Manifest, tokenizer: object, student: ModelSource) -> OnlineSetup:
    """What the run's method needs beside the shards.

    Args:
        tokenizer: the one that the data was ingested with.

    Raises:
        KidpipeError: no teacher is named, it reads other tokens, or the settings ask for what is not there.
    """
    config = session.config
    teacher = _teacher(session)
    require_same(load_tokenizer(teacher.path), tokenizer)
    _require_length(teacher, manifest.facts.max_tokens)
    if METHODS[config.train.method].fills_holes and config.mask.strategy in READ_SQL:
        raise KidpipeError(
            f"method {config.train.method} knows tokens only, and {config.mask.strategy} masking needs the text of the SQL",
            where=f"mask.strategy = {config.mask.strategy}",
            fix="choose random, uniform, hard or easy, or train.method = kid on stored views",
        )
    # A chat may end its turns with another token than the tokenizer's end of sequence.
    tokens = replace(tokens_of(tokenizer, config.predict.mask_token), eos_id=manifest.facts.eos_id)
    require_top_k(teacher, _most_top_k(config, tokens))
    max_length = min(teacher.max_length, student.max_length)
    return OnlineSetup(
        teacher=teacher,
        dtype=_dtype(config, teacher),
        tokens=tokens,
        stop_ids=tuple(sorted({tokens.eos_id, *special_ids(tokenizer)})),
        max_length=max_length,
        batch_tokens=config.engine.batch_tokens,
        score=config.score,
        mask=config.mask,
        predict=config.predict,
        verify=config.verify,
        engine=config.engine,
        # A cache for all that the models could take may be more than there is room for.
        engine_length=min(max_length, manifest.facts.max_tokens + config.train.rollout_tokens),
    )


def check_rollouts(settings: TrainSettings) -> None:
    """Refuse `train.rollout_backend = vllm` where it cannot be had, before anything is read or loaded."""
    if settings.rollout_backend != "vllm":
        return
    where, instead = "train.rollout_backend = vllm", "set train.rollout_backend = transformers"
    if not METHODS[settings.method].is_on_policy:
        others = " and ".join(method for method, traits in METHODS.items() if traits.is_on_policy)
        raise KidpipeError(
            f"the student of method {settings.method} decodes nothing in training that vLLM could do",
            where=where,
            fix=f"leave the setting out; it is for {others}",
        )
    if processes.world_size() > 1:
        raise KidpipeError(
            f"vLLM generates beside one training process, and these are {processes.world_size()}",
            where=where,
            fix=f"train without torchrun, or {instead}",
        )
    require_vllm(where, instead)


def _teacher(session: Session) -> ModelSource:
    settings, method = session.config.teacher, session.config.train.method
    if not settings.model:
        raise KidpipeError(
            f"method {method} asks the teacher during training, and none is named",
            where="teacher.model",
            fix=f"kidpipe train --method {method} --teacher MODEL, or a method that reads stored scores: kid, rkd, fkd",
        )
    try:
        # Servers are known by what the store remembers of their scores, the same for all processes of a run.
        return resolve_teacher(settings, session.store.digests)
    except KidpipeError as error:
        if is_url(settings.model):
            raise
        fix = f"method {method} needs the teacher itself; {error.fix}"
        raise KidpipeError(error.what, where=f"teacher.model = {Path(settings.model)}", fix=fix) from None


def _dtype(config: Config, teacher: ModelSource) -> str:
    """That of the weights; a server's is its own choice."""
    is_ours = config.teacher.dtype == "auto" and teacher.served is None
    return stored_dtype(teacher) if is_ours else config.teacher.dtype


def _most_top_k(config: Config, tokens: Tokens) -> int:
    """The largest K that the method asks the teacher for."""
    verifies = METHODS[config.train.method].fills_holes and config.predict.fill == "verify"
    return max(config.score.top_k, max(config.verify.top_k, config.predict.top_k) + tokens.margin if verifies else 0)


def _require_length(teacher: ModelSource, longest: int) -> None:
    if teacher.max_length < longest:
        raise KidpipeError(
            f"the teacher takes {teacher.max_length} tokens, the data has up to {longest}",
            where=f"teacher.model = {teacher.name}",
            fix="set ingest.max_prompt_tokens so that prompt and SQL fit, and build again",
        )
