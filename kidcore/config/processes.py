"""What torchrun tells the processes it starts in; which of them this one is, and which may speak for all, out."""

import os
from datetime import timedelta


def world_size() -> int:
    """Processes that work on one command together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among all of them."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Processes that share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first_to_fail() -> bool:
    """Whether no other process has failed before: one message is enough, and the failures after it follow from it.

    Asked before the process group is left, or another process could see the connection end and claim to be the first.
    """
    if world_size() == 1:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=10))
        return store.add(f"kidpipe/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        # Nobody holds the store any more, or not yet.
        return rank() == 0
