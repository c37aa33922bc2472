"""Nothing in; kidpipe's own packages bound to their names, whatever lies in the working folder, out.

Their names are plain words (DESIGN.md tells why), so a user's `train.py`, `eval.py` or folder `pipeline/` would be imported
instead of ours wherever the working folder is on sys.path: under `python -m kidpipe`, torchrun's `-m`, or PYTHONPATH=".".
"""

import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("kidcore", "pipeline", "train", "eval")
HOME = Path(__file__).resolve().parents[1]
"""The folder that holds them all: site-packages, or a clone."""


def claim() -> None:
    """Bind the packages, each by the folder beside this one; imports of what is in them go there from now on.

    Under `python -m kidpipe` the working folder also leaves sys.path, so that no other module there is imported by chance.
    """
    if _runs_as_module() and sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd() != HOME:
        del sys.path[0]
    for name in PACKAGES:
        known = sys.modules.get(name)
        if known is not None and HOME / name in [Path(folder).resolve() for folder in getattr(known, "__path__", ())]:
            continue
        spec = PathFinder.find_spec(name, [str(HOME)])
        assert spec is not None, f"{name} is not beside {HOME}"
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


def child_command(module: str) -> list[str]:
    """How a process of ours starts another: `python -m MODULE`, without the working folder on its path unless we live there."""
    return [sys.executable, *([] if Path.cwd() == HOME else ["-P"]), "-m", module]


def _runs_as_module() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and str(spec.name).partition(".")[0] == "kidpipe"
