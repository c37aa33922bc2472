"""What keeps a process's memory flat: settings of the C library's allocator and of oneDNN, which multiplies matrices on a CPU.

What a step or a shard freed is used again, and goes back to the system behind a shard, or where a run holds more than it should
(see train.memory_watch).

Packs have ever new lengths, so tensors have ever new sizes. Left alone, glibc keeps freed blocks, finds none that fits the
next size well, and asks for more: a run of 40 steps grew from 15 to 24 GB. Blocks that are mapped and unmapped one by one
stay flat too, but their pages come anew each time: two million faults a step, a quarter of its processor time. A build keeps
what one of its engine's steps needed in the same way; there, giving it back behind each shard is enough.
"""

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
_NEVER, _USUAL_MMAPS = 2**31 - 1, 65536
_LARGE = 4 << 20
"""Behind a run, bytes from which a block is mapped alone, and unmapped when it is freed."""


def keep_few_products() -> None:
    """Let oneDNN, and PyTorch around it, keep 128 compiled products instead of 1,024 each.

    They compile one for each number of rows that a pass through a model ever had, and keep half a megabyte with each. All layers
    of one pass share a few, and those of earlier passes hardly come again. Heard only before the first product of a process.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "128")


@contextmanager
def flat_memory() -> Iterator[None]:
    """Let glibc keep what is freed until `release_free_memory`; another C library is left as it is."""
    keep_few_products()
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    library.mallopt(_M_ARENA_MAX, 1)
    try:
        yield
    finally:
        # Whatever this process does next has no steps behind which memory is given back.
        library.mallopt(_M_MMAP_MAX, _USUAL_MMAPS)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGE)
        library.malloc_trim(0)


def release_free_memory() -> None:
    """Give back all free pages, those between used ones too."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    """The C library that this process runs on, if it is one that can be told."""
    try:
        library = ctypes.CDLL(None)
        library.mallopt.argtypes, library.malloc_trim.argtypes = [ctypes.c_int, ctypes.c_int], [ctypes.c_size_t]
        # Only glibc has it: other libraries accept mallopt and do nothing.
        library.gnu_get_libc_version  # noqa: B018
    except (OSError, AttributeError):
        return None
    return library
