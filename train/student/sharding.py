"""A model in; the same with weights, gradients and optimiser state divided over processes (FSDP2) out, and whole tensors back.

A layer's weights are gathered when it runs. Everything else (embeddings, last norm, LM head) is gathered while `Sharded`
runs, so whatever reads the LM head or calls the trunk has to be done inside of it.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from kidcore.models.trees.trunk import causal_of
from train.student.ranks import Ranks

T = TypeVar("T")
_STATE_BYTES = 16
"""Of a trained float32 weight: itself, its gradient and the two moments of AdamW."""
_SHARE_OF_DEVICE = 0.7
"""What these may take of a GPU, to leave room for activations."""


class Sharded(nn.Module):
    """Runs work on a model while the weights outside its layers are whole."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[nn.Module], T]) -> T:
        """What `work` makes of the model. Its tensors are what may be differentiated."""
        return work(self.model)

    def inspect(self, work: Callable[[nn.Module], T]) -> T:
        """The same where nothing is differentiated: the weights are divided again at once."""
        with torch.no_grad():
            result: T = self(work)
        self.reshard()
        return result

    def reshard(self) -> None:
        """Divide the weights that a forward pass without a backward one left whole."""
        for module in _shards(self):
            module.reshard()


def shard(model: nn.Module, ranks: Ranks) -> Sharded:
    """Divide `model` over all processes; gradients are summed, not averaged.

    It is whole and the same in each of them, or whole in the first and on the meta device in others.
    """
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    names = set(getattr(causal_of(model), "_no_split_modules", None) or ())
    # One after the other: what a process is given of a layer is divided before the next layer comes.
    is_given = bool(ranks.sum(torch.tensor([float(_is_sketch(model))])))
    for module in list(model.modules()):
        if type(module).__name__ in names:
            if is_given:
                _give_weights(module)
            fully_shard(module, mesh=mesh)
    if is_given:
        _give_weights(model)
    root = Sharded(model)
    fully_shard(root, mesh=mesh)
    for part in _shards(root):
        part.set_gradient_divide_factor(1.0)
        # Division by one through NCCL's own scaling is not offered by gloo.
        part.set_force_sum_reduction_for_comms(True)
        # An expert that a process's packs do not reach has a gradient in another.
        part.set_reduce_scatter_unused_params(True, recurse=False)
    return root


def _is_sketch(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())


@torch.no_grad()
def _give_weights(module: nn.Module) -> None:
    """Send the tensors of `module` that are not divided yet, its buffers included, from the first process to those without."""
    given: dict[Tensor, Tensor] = {}
    for part in module.modules():
        # Buffers that no checkpoint holds (rotary frequencies) are sent too, and what a module keeps of them beside.
        places: tuple[dict[str, Any], ...] = (part._parameters, part._buffers, part.__dict__)
        for tensors in places:
            for name, tensor in tensors.items():
                if not isinstance(tensor, Tensor) or isinstance(tensor, DTensor):
                    continue
                # Tied weights are one tensor under several names, and stay one.
                if tensor not in given:
                    given[tensor] = _given(tensor)
                tensors[name] = given[tensor]


def _given(tensor: Tensor) -> Tensor:
    """The first process's values of a tensor."""
    if tensor.is_meta:
        empty = torch.empty_like(tensor, device="cpu")
        own = nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    else:
        own = tensor
    torch.distributed.broadcast(own.data, src=0)
    return own


def choose_parallel(asked: Literal["auto", "ddp", "fsdp"], model: nn.Module, ranks: Ranks) -> Literal["ddp", "fsdp"]:
    """What was asked for; auto = ddp where weights, gradients and optimiser state fit on one GPU. Alone, ddp."""
    if ranks.world_size == 1:
        return "ddp"
    if asked != "auto" or ranks.device.type != "cuda":
        return "ddp" if asked == "auto" else asked
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.nbytes for parameter in model.parameters() if not parameter.requires_grad)
    # GPUs may be unlike, and all have to choose the same.
    available = min(ranks.gather(torch.cuda.get_device_properties(ranks.device).total_memory)) * _SHARE_OF_DEVICE
    return "ddp" if trained * _STATE_BYTES + frozen <= available else "fsdp"


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided; all processes have to ask."""
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full


def divided(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, if `like` is divided."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def is_divided(tensor: Tensor) -> bool:
    """Whether processes hold parts of it."""
    return isinstance(tensor, DTensor)


def gather(state: Any, *, keep: bool) -> Any:
    """Dictionaries and lists of tensors with the divided ones made whole, one at a time, on the CPU; `keep` them or not."""
    if isinstance(state, dict):
        return {name: gather(value, keep=keep) for name, value in state.items()}
    if isinstance(state, list):
        return [gather(value, keep=keep) for value in state]
    if isinstance(state, DTensor):
        full = whole(state)
        return full.cpu() if keep else None
    return state


def _shards(root: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in root.modules() if isinstance(module, FSDPModule))
