"""Engine settings in; how many engines a build is to ask side by side out."""

import importlib.util
import os

from kidcore.config.config import EngineSettings
from kidcore.errors import KidpipeError


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


def require_ray(*, verbose: bool = False) -> None:
    """Refuse to go on where Ray is not installed; where it is, see that it keeps off standard output unless `verbose`."""
    if importlib.util.find_spec("ray") is None:
        raise KidpipeError(
            "several engines need Ray, which is not installed",
            where="engine.workers, engine.ray",
            fix="pip install 'kidpipe[ray]', or set engine.workers = 1",
        )
    if not verbose:
        # Read when Ray is imported. It tells of each dead worker in a long line on stdout; we say so ourselves.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
