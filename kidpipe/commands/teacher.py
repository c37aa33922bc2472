"""`kidpipe teacher`: a model in, the same fine-tuned on the training questions, evaluated, and how to build with it, out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kidcore.errors import KidpipeError
from kidcore.models.sources import resolve
from kidpipe.commands.evaluate import evaluate
from kidpipe.commands.next_command import after_teacher
from kidpipe.commands.session import Session
from kidpipe.commands.train import train

LORA_RANK = 16
"""Where the configuration names none: a teacher is large, and its optimiser state would be four times as large."""


def teacher(session: Session, *, name: str, full: bool, with_eval: bool, as_json: bool) -> dict[str, Any]:
    """Train `teacher.model` with method sft on the training questions, as the paper does with its teachers, and evaluate it.

    Args:
        name: of the run; empty = made from its settings.
        full: train all weights, not LoRA adapters.
        with_eval: judge it on the held-out questions afterwards.

    Raises:
        KidpipeError: no teacher is named, or training or evaluation refuses.
    """
    settings = session.config.teacher
    if not settings.model:
        raise KidpipeError("no teacher is named", where="teacher.model", fix="kidpipe teacher --teacher MODEL")
    source = resolve(settings.model, settings.revision, digests=session.store.digests)
    run_settings = session.config.train
    rank = 0 if full else run_settings.lora_rank or LORA_RANK
    # By its name, which goes into the card and the adapter's configuration; a revision has no other name than its folder.
    start = str(source.path) if settings.revision else settings.model
    changed = run_settings.model_copy(update={"student": start, "method": "sft", "lora_rank": rank})
    config = session.config.model_copy(update={"train": changed})
    tuning = replace(session, loaded=replace(session.loaded, config=config), is_silent=session.is_silent or as_json, is_step=True)
    trained = train(tuning, name=name, as_json=False)
    best = Path(trained["run"]) / "best"
    said = {"teacher": str(best), "from": settings.model, "seed": changed.seed, "lora_rank": rank}
    report: dict[str, Any] = said | {"train": trained, "eval": None}
    if with_eval:
        report["eval"] = evaluate(tuning, str(best), name="", as_json=False)
    if as_json:
        session.print_json(report)
    else:
        rows = f"LoRA of rank {rank}" if rank else "all weights"
        session.console.print(f"fine-tuned  {settings.model}: {rows}, seed {changed.seed}")
        session.console.print(f'teacher     set teacher.model = "{best}" (kidpipe.toml, or --teacher)', soft_wrap=True)
        if not session.is_step:
            session.console.print(f"next        {after_teacher(session, str(best))}", soft_wrap=True)
    return report
