"""Engine settings in; how many engines a build is to ask side by side out."""

import importlib.util
import logging
import os
from pathlib import Path

from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError

_LOG = logging.getLogger(__name__)


def engines_here(settings: EngineSettings, *, asks_models: bool) -> int:
    """Engines that are wanted of this machine alone.

    Args:
        asks_models: whether models of this machine are to be asked; without them its GPUs make nothing faster.
    """
    if settings.workers == "auto" and not asks_models:
        return 1
    number = num_workers(settings)
    if settings.workers == "auto" and number > 1 and importlib.util.find_spec("ray") is None:
        _LOG.warning(
            "one engine is used, and the GPUs would do for %d: pip install 'kidpipe[ray]', or engine.workers = 1", number
        )
        return 1
    return number


def num_workers(settings: EngineSettings, gpus: float | None = None) -> int:
    """Engines that are wanted; `gpus` are those of the cluster, None for this machine's."""
    if settings.workers != "auto":
        return settings.workers
    if settings.device == "cpu":
        return 1
    if gpus is None:
        # Here alone: torch takes seconds to load, and only this question needs it.
        import torch

        gpus = torch.cuda.device_count()
    return max(1, int(gpus) // settings.tensor_parallel)


def require_ray(address: str = "", *, verbose: bool = False) -> None:
    """Refuse to go on where Ray is not installed; where it is, set what it reads when it is imported.

    Args:
        address: of the cluster that is to be joined, if any.
        verbose: whether Ray may write to standard output.
    """
    if importlib.util.find_spec("ray") is None:
        raise KidpipeError(
            "several engines need Ray, which is not installed",
            where="engine.workers, engine.ray",
            fix="pip install 'kidpipe[ray]', or set engine.workers = 1",
        )
    if not verbose:
        # Read when Ray is imported. It tells of each dead worker in a long line on stdout; we say so ourselves.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    if address and _has_token():
        # `ray start` asks for the token that lies there, and who joins would not send it of their own accord.
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _has_token() -> bool:
    is_named = bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"))
    return is_named or (Path.home() / ".ray" / "auth_token").is_file()
