"""The folder of a run in; the same held by this run alone, and mended after a kill, out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kidcore.config.digests import FileDigests
from kidcore.config.train_settings import TrainSettings
from kidcore.locks import LockKind, hold
from kidcore.models.sources import resolve
from train.checkpoint import clean_checkpoints, recover_folder
from train.data.dataset import Source
from train.identity import claim_folder, run_identity
from train.online.setup import OnlineSetup
from train.student.ranks import Ranks


@contextmanager
def claimed(
    out: Path,
    settings: TrainSettings,
    source: Source,
    student_path: Path,
    ranks: Ranks,
    online: OnlineSetup | None,
    digests: FileDigests | None = None,
    lock: LockKind = "auto",
) -> Iterator[None]:
    """Make the folder this run's, and mend what a kill left half-done; the first process does it for all."""
    if not ranks.is_first:
        ranks.wait()
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    # It keeps a second trainer out, and goes with the process, however that ends.
    with hold(out / ".lock", lock, busy="another process is training in this folder"):
        asked = online.identity(settings) if online else None
        student = resolve(str(student_path), digests=digests).identity
        claim_folder(out, run_identity(settings, source.digest, student, asked))
        for name in ("best", "last"):
            recover_folder(out / name)
        clean_checkpoints(out / "checkpoints")
        ranks.wait()
        yield
