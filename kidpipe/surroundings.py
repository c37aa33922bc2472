"""The process's streams and the system's refusals in; streams that take any text, and a message for people, out."""

import errno
import io
import os
import sys
from collections.abc import Mapping

from kidcore.errors import KidpipeError

_NO_ROOM = "free some space there, or name another place, and run the same command again"
_NO_RIGHT = "make it readable (or writable) for the user that runs kidpipe, or name another place"
_FIXES: Mapping[int, str] = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EACCES: _NO_RIGHT,
    errno.EPERM: _NO_RIGHT,
    errno.EROFS: _NO_RIGHT,
    errno.EMFILE: "raise the limit of open files (ulimit -n 4096)",
    errno.ENFILE: "raise the limit of open files (ulimit -n 4096)",
}


def prepare_streams() -> None:
    """Make the standard streams such that no command stumbles over them: those that are closed take everything and keep nothing,
    and what a narrow encoding (a cron job's, a Latin-1 terminal's) can't hold is written as an escape. In what comes in, bytes
    that are no text are kept as halves of characters, so that a command can say which line has them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            # The number is taken as well, or the first file that is opened would get it, and what libraries print.
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115 - to the end
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace" if number else "surrogateescape")


def flush_output() -> None:
    """Write what is buffered, so that a full disk is said as an error; who closed the other end of a pipe has read enough."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try again while it shuts down, and print its own complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            raise


def refusal(error: OSError) -> KidpipeError:
    """What the system refused, in words."""
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if isinstance(error, FileNotFoundError) and not named:  # os.getcwd() has nothing to name
        return KidpipeError("the working folder is not there any more", fix="cd to one that is")
    return KidpipeError(
        (error.strerror or str(error) or type(error).__name__).lower(),
        where=" -> ".join(named),
        fix=_FIXES.get(error.errno or 0, "check that path" if named else ""),
    )
