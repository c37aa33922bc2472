"""torchrun's environment in; the processes that train together, and what they tell each other, out.

Everything that decides what is computed is worked out by each process for itself, from the same files and settings; what
travels are sums of gradients and figures.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kidcore.config import processes
from kidcore.errors import KidpipeError

T = TypeVar("T")
_BUCKET_BYTES = 64 << 20
"""Gradients are summed in pieces of this size: large enough for the network, small beside the gradients."""
_PATIENCE = timedelta(hours=2)
"""How long others wait for one process: it may ingest data or write a checkpoint alone. A dead one is noticed at once."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on once all processes are here."""
        self.sum(torch.zeros(1))

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """The first process does what follows alone, and then the others do."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def gather(self, value: T) -> list[T]:
        """What each process gave, in their order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the CPU."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes; one that no process has stays None."""
        if self.world_size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        holders = self.sum(torch.tensor([float(parameter.grad is not None) for parameter in trained]))
        bucket: list[Tensor] = []
        for parameter, count in zip(trained, holders.tolist(), strict=True):
            if not count:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if bucket and (sum(x.nbytes for x in bucket) + parameter.grad.nbytes > _BUCKET_BYTES):
                _sum_together(bucket)
                bucket = []
            bucket.append(parameter.grad)
        if bucket:
            _sum_together(bucket)


ALONE = Ranks()


def _sum_together(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@contextmanager
def open_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started on `device` (cpu or cuda); without torchrun, one process is all."""
    world_size, number = processes.world_size(), processes.local_rank()
    chosen = torch.device(device)
    if world_size == 1:
        yield Ranks(device=chosen)
        return
    if chosen.type == "cuda":
        if number >= torch.cuda.device_count():
            raise KidpipeError(
                f"process {number} of this machine has no GPU: there are {torch.cuda.device_count()}",
                fix=f"torchrun --nproc-per-node {max(1, torch.cuda.device_count())}, or --set engine.device=cpu",
            )
        chosen = torch.device("cuda", number)
        torch.cuda.set_device(chosen)
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield Ranks(processes.rank(), world_size, chosen)
    # Only after success: a process that leaves early makes the others fail, and they would speak before it does.
    dist.destroy_process_group()
