"""The state of a run in, a folder that appears whole or not at all out; and back.

A folder is written under a temporary name, its files are synced, and then it is renamed. A kill leaves at most a folder
whose name begins with a dot, which the next start removes.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from kidcore.atomic import sync, sync_entry
from kidcore.errors import KidpipeError, first_line
from train.student.divided_state import needs_division, read_divided, was_divided, write_divided
from train.student.ranks import Ranks
from train.student.sharding import divided

_KEPT = 2
"""Checkpoints kept: the newest, and one before it in case its disk blocks go bad."""


@dataclass(frozen=True)
class RunProgress:
    """Where a run stands after `step` optimiser steps."""

    step: int
    best_step: int
    best_nll: float
    log_bytes: int
    seconds: float
    """Training time so far, without evaluation and start-up."""
    start_nll: float = math.nan
    """Of the student as it was given; nan in checkpoints of an older kidpipe, and without a holdout."""
    pack_tokens: int = 0
    """Of the packs that the run's steps are cut into; 0 in checkpoints of an older kidpipe."""
    pack_tokens_asked: int | str = "auto"
    """What the settings said of it: memory may have allowed less."""
    held_out: int = -1
    """Examples that the run keeps for evaluation; -1 in checkpoints of an older kidpipe."""


def commit_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder with `write` and put it in the place of `target`.

    A folder that stands there is moved aside first, and `recover_folder` moves it back if the run is killed in between.
    """
    fresh, old = fresh_of(target), _old_of(target)
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        write(fresh)
        sync(fresh)
    except (OSError, RuntimeError, SafetensorError) as error:
        # A full disk is an OSError here, a RuntimeError in torch.save and an error of its own in safetensors.
        shutil.rmtree(fresh, ignore_errors=True)
        raise not_written(target, error) from error
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    fresh.rename(target)
    sync_entry(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def fresh_of(target: Path) -> Path:
    """Where `commit_folder` has the folder filled."""
    return target.with_name(f".{target.name}.new")


def _old_of(target: Path) -> Path:
    """Where a folder goes that another takes the place of."""
    return target.with_name(f".{target.name}.old")


def not_written(path: Path, error: Exception) -> KidpipeError:
    """What to say when the disk takes no more."""
    # What torch.save says of a full disk speaks of positions in its own file.
    reason = "the disk takes no more" if "inline_container" in str(error) else first_line(error)
    return KidpipeError(
        f"the run could not be saved: {reason}",
        where=str(path),
        fix="make room on that disk and run the same command again: it continues from the newest checkpoint that was saved",
    )


def recover_folder(target: Path) -> None:
    """Undo what a kill left half-done in `commit_folder`."""
    fresh, old = fresh_of(target), _old_of(target)
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(fresh, ignore_errors=True)


def clean_checkpoints(folder: Path) -> None:
    """Remove what a kill left half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path)


class Checkpoints:
    """The checkpoints of one run, out/checkpoints/step-00000123.

    They do not know how many processes wrote them, and no random generator is in them: what dropout does follows from the
    seed, the step and the pack.

    Args:
        folder: of the checkpoints.
        pack_tokens: what the settings say of them now.
    """

    def __init__(self, folder: Path, pack_tokens: int | str = "auto") -> None:
        self._folder = folder
        self._asked = pack_tokens

    def save(self, progress: RunProgress, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
        """Write a checkpoint, then drop the oldest. All processes take part; of a divided student each writes its part."""
        trained = _trained_state(model)
        target = self._folder / f"step-{progress.step:08d}"
        is_divided = needs_division(trained)
        said = asdict(progress) | {"pack_tokens_asked": self._asked}

        def write(folder: Path) -> None:
            if is_divided:
                ranks.wait()
                write_divided(folder, trained, optimizer)
            else:
                torch.save(trained, folder / "model.pt")
                torch.save(optimizer.state_dict(), folder / "optimizer.pt")
            (folder / "progress.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")

        if not ranks.is_first:
            if is_divided:
                # The first process has made the folder by then, and renames it once everybody has written.
                ranks.wait()
                write_divided(fresh_of(target), trained, optimizer)
            return
        commit_folder(target, write)
        for path in self._all()[:-_KEPT]:
            # Renamed first: a kill must not leave a folder that looks whole.
            doomed = _old_of(path)
            path.rename(doomed)
            shutil.rmtree(doomed)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> RunProgress | None:
        """Put the newest checkpoint into model and optimiser; None when there is none."""
        found = self._all()
        if not found:
            return None
        folder = found[-1]
        try:
            progress = RunProgress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
            if was_divided(folder):
                read_divided(folder, _trained_state(model), optimizer)
            else:
                # Of whole files a divided student takes parts: mapped, they need not be in memory whole.
                is_divided = needs_division(_trained_state(model))
                how: dict[str, Any] = {"map_location": "cpu" if is_divided else device, "mmap": is_divided, "weights_only": True}
                _load_trained(model, torch.load(folder / "model.pt", **how))
                _load_moments(optimizer, torch.load(folder / "optimizer.pt", **how))
        except Exception as error:  # the unpickler raises nearly anything on damaged bytes
            raise KidpipeError(
                f"a checkpoint cannot be read: {error}",
                where=str(folder),
                fix=f"rm -r {folder}, then run the same command again: it continues from the checkpoint before",
            ) from error
        return progress

    def newest_step(self) -> int:
        """The step of the newest checkpoint; 0 when there is none."""
        found = self._all()
        return int(found[-1].name.removeprefix("step-")) if found else 0

    def pack_tokens(self) -> int:
        """The size of the packs of the run so far: another one would round otherwise. 0 where it is unknown, or not asked for."""
        size = int(self._began_with("pack_tokens", 0))
        return size if self._asked in ("auto", self._began_with("pack_tokens_asked", "auto")) else 0

    def held_out(self) -> int:
        """Examples that the run keeps for evaluation; 0 before its first checkpoint, -1 where an older kidpipe began it."""
        return int(self._began_with("held_out", -1)) if self._all() else 0

    def _began_with(self, name: str, unknown: int | str) -> int | str:
        found = self._all()
        try:
            value: int | str = json.loads((found[-1] / "progress.json").read_text(encoding="utf-8"))[name]
            return value
        except (IndexError, OSError, ValueError, KeyError, TypeError):
            return unknown

    def clear(self) -> None:
        """Drop them all: a finished run needs none."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        # A copy that somebody put beside them (step-00000100.old) is none of ours.
        found = (path for path in self._folder.glob("step-*") if path.name.removeprefix("step-").isdecimal())
        return sorted(path for path in found if path.is_dir())


def _trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes; frozen weights are in the student's folder already."""
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return {name: x for name, x in model.state_dict().items() if name not in frozen}


def _load_trained(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    own = _trained_state(model)
    if state.keys() != own.keys():
        raise ValueError("it holds other weights than this student trains")
    model.load_state_dict({name: divided(tensor, own[name]) for name, tensor in state.items()}, strict=False)


def _load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, values in state["state"].items():
        like = parameters[number]
        # AdamW keeps a plain count of steps beside the moments.
        state["state"][number] = {name: divided(x, like).clone() if x.shape == like.shape else x for name, x in values.items()}
    optimizer.load_state_dict(state)
