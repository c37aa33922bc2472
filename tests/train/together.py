"""What one process of several does in the tests of train.student.ranks: `torchrun -m tests.train.together JOB FOLDER OUT`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from kidcore.config.config import TrainSettings
from kidcore.method.methods import METHODS
from tests.train.small import EOS, make_examples, make_student, part_files
from tests.train.test_methods import online_setup
from train.data.dataset import Source
from train.step import Runner, RunObjective
from train.student.placement import place
from train.student.ranks import Ranks, open_ranks
from train.student.sharding import whole
from train.trainer import run

ROOT = Path(__file__).parents[2]
# Three packs for two processes, one pack (a process has none), and one that each example overflows.
PACK_TOKENS = (110, 10_000, 64)


def config(**changes: object) -> TrainSettings:
    values: dict[str, object] = {"method": "kid", "batch_size": 8, "epochs": 2, "holdout": 0.1, "learning_rate": 1e-2}
    return TrainSettings.model_validate(values | changes)


def source_of(folder: Path) -> Source:
    """The Source that `write_build(folder, parts=4)` returned."""
    return Source([part_files(folder, part) for part in range(4)], EOS, "digest-0")


def gradients(ranks: Ranks, changes: dict[str, object]) -> list[tuple[float, float, int, dict[str, torch.Tensor]]]:
    """Losses, packs and the gradient of every parameter after one step, by pack budget."""
    found = []
    examples = make_examples(np.random.default_rng(3), 3, 3, 2)
    for pack_tokens in PACK_TOKENS:
        settings = config(**changes)
        # Where it trains is decided as the trainer decides it.
        placed = place(make_student(tied=bool(pack_tokens % 4)), settings, ranks)
        model = placed.model
        runner = Runner(model, ranks.device, placed.layout, pack_tokens, placed.autocast_dtype, ranks, placed.sharded)
        assert (placed.sharded is not None) == (ranks.world_size > 1 and settings.parallel == "fsdp")
        assert placed.copy is None
        figures = runner.accumulate(examples, RunObjective.of(settings))
        grads = {name: whole(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((figures.mle, figures.kd, figures.packs, grads))
    return found


def launch(processes: int, job: str, folder: Path, out: Path, **changes: object) -> subprocess.Popen[str]:
    """Start `processes` of this module under torchrun; one without it."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "tests.train.together"]
    return subprocess.Popen(
        [*command, job, str(folder), str(out), json.dumps(changes)], text=True, cwd=ROOT, stderr=subprocess.PIPE
    )


def finish(processes: int, job: str, folder: Path, out: Path, **changes: object) -> str:
    """Run to the end; standard error."""
    with launch(processes, job, folder, out, **changes) as child:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors
        return errors


def main() -> None:
    job, folder, out, changes = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
    torch.set_num_threads(1)
    with open_ranks("cpu") as ranks:
        if job == "train":
            settings = config(**changes)
            online = online_setup(folder / "student") if METHODS[settings.method].is_online else None
            run(settings, source_of(folder), folder / "student", out, ranks=ranks, online=online)
        else:
            found = gradients(ranks, changes)
            if ranks.is_first:
                torch.save(found, out)


if __name__ == "__main__":
    main()
