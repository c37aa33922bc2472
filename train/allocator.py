"""Settings of the C library's allocator: freed memory goes back to the system, so that a long run stays as large as its start.

Packs have ever new lengths, so tensors have ever new sizes. Left alone, glibc keeps freed blocks, finds none that fits the
next size well, and asks for more: a run of 40 steps grew from 15 to 24 GB.
"""

import ctypes
import functools
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 4 << 20
"""Bytes from which a block is mapped alone, and unmapped when it is freed."""


def keep_memory_flat() -> None:
    """Set glibc's thresholds for this process; another C library is left as it is."""
    library = _glibc()
    if library is None:
        return
    # Setting a threshold also stops glibc from raising it by itself, up to 32 MiB, as large blocks are freed.
    library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
    library.mallopt(_M_TRIM_THRESHOLD, _LARGE)
    library.mallopt(_M_ARENA_MAX, 1)


def release_free_memory() -> None:
    """Give back free pages that lie between used ones."""
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
