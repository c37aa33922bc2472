"""`kidpipe train`: the manifest's shards and a student in, a better student out."""

import logging
import math
import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kidcore.config import processes
from kidcore.config.train_settings import TrainSettings
from kidcore.errors import KidpipeError
from kidcore.locks import waiting_for
from kidcore.method.knowledge import GoldKnowledge, students_advantage
from kidcore.method.methods import METHODS, last_stage, require_objective, stages_read
from kidcore.method.overlap import Overlap
from kidcore.models.sources import ModelSource, resolve
from kidcore.models.tokenizers import eos_id, load_tokenizer, no_row, require_same
from kidcore.store.knowledge import teacher_knowledge
from kidcore.store.manifest import Manifest, find_manifest, read_manifest
from kidcore.store.stages import MODEL_STAGES, STAGE_TABLE, made_from
from kidcore.store.store import DamagedShard
from kidpipe.commands.build import build_imperfect
from kidpipe.commands.companions import COMPANIONS, write_companions
from kidpipe.commands.idle_settings import warn_of_idle
from kidpipe.commands.next_command import after_training
from kidpipe.commands.online import check_rollouts, online_setup
from kidpipe.commands.restricted import content_digest, restricted
from kidpipe.commands.run_folder import adopt_run, find_run, is_another_run
from kidpipe.commands.same_inputs import check_data, check_teacher
from kidpipe.commands.session import Session, show_seconds
from train.data.dataset import Source
from train.data.shards import PartFiles
from train.identity import claim_folder, run_identity
from train.online.setup import OnlineSetup
from train.results import TrainResult
from train.schedule import settled
from train.student.ranks import open_ranks
from train.student.student import check_student
from train.tracking import check_trackers
from train.trainer import run

_LOG = logging.getLogger(__name__)
CACHE = "cache"
"""Below the store's root, a folder a machine: what training makes of shards once. It may go whenever nobody trains."""


@dataclass(frozen=True)
class PreparedRun:
    """What a run starts from, checked."""

    manifest: Manifest
    """As if nothing had been built but what the run reads."""
    whole: Manifest
    """With all that was built."""
    student: ModelSource
    online: OnlineSetup | None
    content: str
    """Digest of what the run reads of the manifest."""
    identity: dict[str, Any]
    """Everything that decides its losses."""
    name: str
    """What the run is called unless it is given a name: the same for the same run."""


def prepare_run(session: Session, digest: str = "", *, quiet: bool = False) -> PreparedRun:
    """Find the manifest (the latest, or the one whose digest begins so), the student and an online method's teacher.

    Raises:
        KidpipeError: one of them is missing, or they do not fit together.
    """
    settings = session.config.train
    check_rollouts(settings)
    if not settings.student:
        raise KidpipeError("no student is named", where="train.student", fix="kidpipe train --student MODEL")
    student = resolve(settings.student, digests=session.store.digests)
    check_student(student.path, settings)
    # Processes of one machine see the same files, and to load two tokenizers takes a second or two: one of them compares.
    is_comparing = processes.local_rank() == 0
    student_tokenizer = load_tokenizer(student.path) if is_comparing else None
    if student_tokenizer is not None and (end := eos_id(student_tokenizer)) >= student.vocab_size:
        raise no_row(student_tokenizer, end, student.vocab_size, f"eos_token in {student.path / 'tokenizer_config.json'}")
    settings = settled(settings, student.path)
    traits = METHODS[settings.method]
    whole = _manifest(session, last_stage(settings), digest, quiet)
    manifest = restricted(whole, settings)
    stored = session.store.root / "tokenizers" / manifest.facts.tokenizer
    tokenizer = load_tokenizer(stored) if is_comparing or traits.is_online else None
    if is_comparing:
        require_same(tokenizer, student_tokenizer)
        if (end := manifest.facts.eos_id) >= student.vocab_size:  # in a chat that of a turn
            raise no_row(tokenizer, end, student.vocab_size, "ingest.chat: what ends a turn")
    if student.max_length < manifest.facts.max_tokens:
        raise KidpipeError(
            f"the student takes {student.max_length} tokens, the data has up to {manifest.facts.max_tokens}",
            where=settings.student,
            fix="set ingest.max_prompt_tokens so that prompt and SQL fit, and build again",
        )
    online = online_setup(session, manifest, tokenizer, student) if traits.is_online else None
    content = content_digest(manifest, settings)
    identity = run_identity(settings, content, student.identity, online.identity(settings) if online else None)
    name = find_run(session.store, settings.method, identity)
    return PreparedRun(manifest, whole, student, online, content, identity, name)


def train(session: Session, *, name: str, as_json: bool, digest: str = "", is_teacher_asked: bool = False) -> dict[str, Any]:
    """Train a student on the manifest `digest`, or the latest; sft on data not yet ingested ingests it first.

    With `is_teacher_asked` the teacher was named for this command: it is refused where nothing would come of it.

    Under torchrun every process comes here. The first one makes and writes what is not there, and speaks.
    """
    settings = session.config.train
    check_trackers(settings)
    require_objective(settings)
    if name:
        session.folder_of("runs", name)
    if is_teacher_asked:
        _refuse_idle_teacher(settings)
    with open_ranks(_device(session)) as ranks:
        with ranks.first_goes_ahead():
            prepared = prepare_run(session, digest, quiet=as_json or session.is_silent)
            out = session.store.root / "runs" / (name or prepared.name)
            companions = out / COMPANIONS
            if ranks.is_first:
                _claim(session, out, prepared)
                warn_of_idle(session, trains=True)
        teacher = _teacher_on_gold(session, prepared) if ranks.is_first else None
        result = run(
            settings,
            source_of(session, prepared),
            prepared.student.path,
            out,
            ranks=ranks,
            verbose=session.verbose,
            progress=not (as_json or session.is_silent),
            online=prepared.online,
            companions=companions,
            teacher=teacher,
            digests=session.store.digests,
            lock=session.config.store.lock,
        )
    summary = {
        "run": str(out),
        "method": settings.method,
        "steps": result.steps,
        "best_step": result.best_step,
        "best_nll": result.best_nll,
        "start_nll": result.start_nll,
        "final_nll": result.final_nll,
        "seconds": round(result.seconds, 2),
        "was_finished": result.was_finished,
        "next": after_training(session, out.name),
        **_on_gold(result, teacher),
    }
    if ranks.is_first:
        _show(session, summary, as_json=as_json)
    return summary


def _claim(session: Session, out: Path, prepared: PreparedRun) -> None:
    """Make the folder this run's, with a reference to what it reads; another run's folder is left for the trainer to refuse."""
    store, manifest = session.store, prepared.manifest
    # Of two that begin a run of this name at once, the second finds whose it is: it must not put its own reference there.
    with waiting_for(store.root / "runs.lock"):
        out.mkdir(parents=True, exist_ok=True)
        adopt_run(store, out.name, prepared.identity)
        if not is_another_run(store, out.name, prepared.identity):
            write_companions(session, manifest, prepared.student.path, out)
            claim_folder(out, prepared.identity)
            # The reference first: `gc` refuses one to a manifest that is not there, and would delete a manifest without one.
            store.write_json(f"runs/{out.name}/manifest.json", {"digest": manifest.digest})
            store.write_json(f"manifests/{manifest.digest}.json", manifest.as_json())


def _teacher_on_gold(session: Session, prepared: PreparedRun) -> GoldKnowledge | None:
    """What the teacher that the method learns from thinks of gold, as far as the build has its scores, read by the run or not."""
    traits, built, online = METHODS[session.config.train.method], prepared.whole.facts.teacher, prepared.online
    if not (traits.divergence or traits.answers):
        return None
    if online is not None and (built is None or built.identity != online.teacher.identity):
        return None  # who is asked during training need not have made the shards
    try:
        return teacher_knowledge(session.store, prepared.whole)
    except DamagedShard:
        return None  # whoever needs the shard itself will say so


def _on_gold(result: TrainResult, teacher: GoldKnowledge | None) -> dict[str, Any]:
    """What student and teacher know of gold, for the summary."""
    start, final = result.start_knowledge, result.final_knowledge
    known = {"start_on_gold": start, "final_on_gold": final, "teacher_on_gold": teacher}
    warnings = students_advantage(start, teacher) if start is not None and teacher is not None else []
    overlaps = {"start_overlap": result.start_overlap, "final_overlap": result.final_overlap}
    figures = {name: None if value is None else value.as_json() for name, value in (known | overlaps).items()}
    return figures | {"warnings": warnings}


def _show(session: Session, summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        session.print_json(summary)
        return
    done = f"{summary['steps']} steps in {show_seconds(summary['seconds'])}"
    state = "finished before, nothing to do" if summary["was_finished"] else done
    best = f"best, step {summary['best_step']}" if summary["best_step"] else "best: the start, which is what best holds"
    start = "" if math.isnan(summary["start_nll"]) else f"; {summary['start_nll']:.4f} at the start"
    held_out = f"; holdout NLL a token {summary['best_nll']:.4f} ({best}{start})" if math.isfinite(summary["best_nll"]) else ""
    session.console.print(f"{summary['method']:<11} {state}{held_out}")
    for name, said in (("start_on_gold", "on gold"), ("final_on_gold", "at the end")):
        if (known := GoldKnowledge.from_json(summary[name])) is not None:
            session.console.print(f"{said:<11} {known}")
    for name, said in (("start_overlap", "overlap"), ("final_overlap", "at the end")):
        if (overlap := Overlap.from_json(summary[name])) is not None:
            session.console.print(f"{said:<11} {overlap}")
    session.console.print(f"student     {Path(summary['run']) / 'best'}")
    if not session.is_step:
        session.console.print(f"next        {summary['next']}", soft_wrap=True)


def _device(session: Session) -> str:
    if session.config.engine.device != "auto":
        return session.config.engine.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _manifest(session: Session, stage: str, digest: str, quiet: bool) -> Manifest:
    """The manifest `digest`, or the latest, once it has `stage`.

    What only one method reads is made here when it is missing: ingest where nothing was built, the teacher's answers for
    seqkd, those of the start for opd. Scores, which many runs share, are not.
    """
    manifest = find_manifest(session.store, digest) if digest else read_manifest(session.store)
    is_missing = manifest is None or stage not in manifest.stages
    is_on_request = STAGE_TABLE[stage].is_on_request
    if not digest and ((manifest is None and stage == "ingest") or (is_missing and is_on_request)):
        if is_on_request and processes.world_size() > 1:
            raise KidpipeError(
                "models answer in one process, before several train",
                where=f"no answers are stored for method {session.config.train.method}",
                fix=f"kidpipe build-imperfect --until {stage}, then the same torchrun command again",
            )
        build_imperfect(session, until=stage, as_json=False, quiet=quiet)
        manifest = session.manifest()
    if manifest is None or stage not in manifest.stages:
        raise KidpipeError(
            f"{session.config.train.method} needs the shards of {stage}, which are not built",
            where=str(session.store.root),
            fix="kidpipe build-imperfect --teacher MODEL",
        )
    if not digest and processes.rank() == 0:
        _compare(session, manifest)
    return manifest


def _compare(session: Session, manifest: Manifest) -> None:
    """Refuse shards of another teacher or other data than the configuration's, and mention other settings."""
    stages = stages_read(session.config.train)
    check_data(session, manifest)
    check_teacher(session, manifest, stages)
    for change in drift(session, manifest, made_from(stages)):
        _LOG.warning("the shards were built with other settings: %s (kidpipe build-imperfect)", change)


def drift(session: Session, manifest: Manifest, stages: Collection[str]) -> list[str]:
    """Settings of the data stages `stages` that the configuration and the manifest disagree on."""
    changes: dict[str, None] = {}
    for stage in (record for name, record in manifest.stages.items() if name in stages):
        for name, before in (_unset(session, stage.settings) | dict(stage.settings)).items():
            section, _, field = name.partition(".")
            model = getattr(session.config, section, None)
            # As manifests have it: a folder's place is no part of what is computed.
            now = (model.all_identity() if model else {}).get(field, getattr(model, field, before))
            # What it came to is the build's own choice.
            is_chosen = session.config.ingest.chat == "auto" and name in ("ingest.chat", "ingest.chat_arguments")
            if now != before and not is_chosen:
                changes[f"{name} is {before} there, {now} in the configuration"] = None
    return list(changes)


def _unset(session: Session, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of settings that a manifest leaves out: those that came after it, or were at their default."""
    sections = {name.partition(".")[0] for name in recorded} & set(type(session.config).model_fields)
    models = {name: getattr(session.config, name) for name in sections}
    fields = {f"{name}.{key}": type(models[name]).model_fields[key] for name in models for key in models[name].all_identity()}
    return {name: field.default for name, field in fields.items() if name not in recorded}


def _refuse_idle_teacher(settings: TrainSettings) -> None:
    """Refuse a teacher that was named for a method which neither loads one nor reads what one made."""
    if not METHODS[settings.method].is_online and not MODEL_STAGES.intersection(stages_read(settings)):
        raise KidpipeError(
            f"method {settings.method} neither loads a teacher nor reads what one made",
            where="--teacher",
            fix="leave --teacher out, or choose a method that learns from a teacher, such as --method kid",
        )


def source_of(session: Session, prepared: PreparedRun) -> Source:
    """The shards that a run trains on."""
    root, manifest = session.store.root, prepared.manifest
    parts = [
        PartFiles(part.part, {stage: tuple(root / file for file in files) for stage, files in part.files.items()})
        for part in manifest.parts
    ]
    facts = manifest.facts
    return Source(parts, facts.eos_id, prepared.content, facts.max_tokens, root / CACHE / platform.node())
