"""Distil an expensive text-to-SQL teacher into a cheap student: imperfect data made once, any number of students.

The names below are the public Python interface (kidpipe/api.py); they load when they are first used, so that importing the
package costs nothing and the command line stays quick.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kidcore.errors import KidpipeError
    from kidpipe.api import Build, EvalReport, Project, Run, judge

__all__ = ["Build", "EvalReport", "KidpipeError", "Project", "Run", "judge"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'kidpipe' has no attribute {name!r}")
    # Loaded here because that is the point: torch and Arrow stay out until they are needed.
    from kidpipe import own_packages

    own_packages.claim()
    from kidcore.errors import KidpipeError
    from kidpipe import api

    return KidpipeError if name == "KidpipeError" else getattr(api, name)
