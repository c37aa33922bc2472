"""What torchrun and the machine say in; which process this one is, which may speak for all, and its cores, out."""

import math
import os
import resource
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path, PurePosixPath


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


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: those of its affinity, or fewer where a control group grants less CPU time.

    A job with 4 cores of a machine that has 128 is told of all 128 by os.cpu_count(). A share of a core counts as one.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(root))]))


def peak_memory_mib() -> float:
    """The largest resident set of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, bool]]:
    """The folders of the control groups that this process is in, its own first, and whether they are those of version 2.

    Args:
        controller: what they are to limit: `cpu` or `memory`.
        root: of the file system.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        # Inside a container the path may be the host's, which is not to be seen: the container's own group is the top then.
        groups = [group for group in (PurePosixPath(place), *PurePosixPath(place).parents) if ".." not in group.parts]
        for group in groups:
            yield mount / group.relative_to("/"), not controllers


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each control group above this process grants; those without a limit are left out."""
    for folder, is_second in control_groups("cpu", root):
        if is_second:
            limit = " ".join(_lines(folder / "cpu.max")).split()
        else:
            limit = _lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us")
        if len(limit) == 2 and limit[0] not in ("max", "-1"):
            yield int(limit[0]) / int(limit[1])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except OSError:
        return []
