"""Students of one start in; one whose weights are the mean of theirs out, for `kidpipe eval`.

python bench/studies/spider/average.py mean artifacts/runs/RUN1/last artifacts/runs/RUN2/last artifacts/runs/RUN3/last
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_WEIGHTS = "model.safetensors"


def main() -> None:
    """Copy the first student, tokenizer and prompt included, and put the mean in the place of its weights."""
    target, first, *_ = places = [Path(name) for name in sys.argv[1:]]
    shutil.copytree(first, target)
    students = [load_file(place / _WEIGHTS) for place in places[1:]]
    mean = {
        name: torch.stack([student[name].float() for student in students]).mean(0).to(tensor.dtype)
        for name, tensor in students[0].items()
    }
    save_file(mean, target / _WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
