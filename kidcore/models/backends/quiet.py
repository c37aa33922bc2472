"""Keeps an engine's chatter off the terminal, and the last of it at hand for when the engine fails."""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def quiet(verbose: bool) -> Iterator[Callable[[], str]]:
    """Send what the process and its children write to stdout and stderr to a file, and ignore warnings.

    File descriptors are redirected, not sys.stdout: engines also write from C++ and from child processes, which keep the
    file for as long as they live. Yields a function that returns the last lines. With `verbose` nothing is redirected.
    """
    if verbose:
        yield lambda: ""
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: _last_lines(file.fileno())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, target)
                os.close(descriptor)


def _last_lines(descriptor: int, count: int = 12) -> str:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, 8192, max(0, size - 8192)).decode(errors="replace")
    return "\n".join(text.splitlines()[-count:])
