"""A divided student and its moments in; a folder in which each process wrote what it holds out; and back, divided anew.

The folder does not know how many processes wrote it: torch.distributed.checkpoint finds the pieces that another division
needs, and none of them holds more than its own part.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from train.student.sharding import is_divided

_METADATA = ".metadata"


def was_divided(folder: Path) -> bool:
    """Whether `write_divided` wrote this folder."""
    return (folder / _METADATA).exists()


def needs_division(state: dict[str, Tensor]) -> bool:
    """Whether any of these tensors is divided over processes."""
    return any(is_divided(tensor) for tensor in state.values())


def write_divided(folder: Path, trained: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Write this process's part of the trained weights and of AdamW's state; all processes have to do so together.

    Raises:
        RuntimeError: a process could not write.
    """
    state: dict[str, Any] = {f"model.{name}": tensor for name, tensor in trained.items()}
    for number, values in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
    try:
        save(state, checkpoint_id=folder)
    except CheckpointException as error:  # derives from BaseException, and holds one failure for each process
        reason = next(iter(error.failures.values()))[0]
        raise RuntimeError(str(reason)) from error


def read_divided(folder: Path, trained: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Read the parts that this process holds into `trained`, where they lie, and into AdamW's state.

    Raises:
        ValueError: the folder holds other weights than these.
    """
    stored = set(FileSystemReader(folder).read_metadata().state_dict_metadata)
    if {name for name in stored if name.startswith("model.")} != {f"model.{name}" for name in trained}:
        raise ValueError("it holds other weights than this student trains")
    moments = {number: _moments(parameter) for number, parameter in _numbered(optimizer) if f"optimizer.{number}.step" in stored}
    state: dict[str, Any] = {f"model.{name}": tensor for name, tensor in trained.items()}
    for number, values in moments.items():
        state |= {f"optimizer.{number}.{name}": tensor for name, tensor in values.items()}
    load(state, checkpoint_id=folder, no_dist=not dist.is_initialized())
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _moments(parameter: nn.Parameter) -> dict[str, Tensor]:
    """What AdamW keeps of one parameter, divided as it is, before its first step."""
    like = parameter.detach()
    return {"step": torch.zeros(()), "exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}


def _numbered(optimizer: torch.optim.Optimizer) -> list[tuple[int, nn.Parameter]]:
    """Parameters with the numbers that the optimiser's own state dictionary gives them."""
    return list(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
