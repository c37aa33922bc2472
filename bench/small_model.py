"""A data folder in; a small untrained model with a tokenizer learnt from the data out: to try a pipeline before paying for it.

python -m bench.small_model spider models/teacher --hidden 256 --layers 4
"""

from pathlib import Path
from typing import Annotated

import typer

from kidcore.config.config import DataSettings
from kidpipe.demo.recipe import ModelSize
from kidpipe.demo.setup import make_models


def main(
    data: str,
    out: Annotated[list[Path], typer.Argument(help="Folders to write, each half as wide as the one before.")],
    layout: str = "spider",
    hidden: int = 256,
    layers: int = 4,
    vocab_size: int = 4096,
    max_length: int = 2048,
    seed: int = 0,
) -> None:
    """Make one model a folder, all with the same tokenizer."""
    widths = [hidden // 2**number for number in range(len(out))]
    sizes = {
        folder: ModelSize(
            hidden_size=width, layers=layers, heads=width // 32, kv_heads=max(width // 64, 1), intermediate=3 * width
        )
        for folder, width in zip(out, widths, strict=True)
    }
    settings = DataSettings.model_validate({"layout": layout, "path": data})
    make_models(settings, sizes, vocab_size=vocab_size, max_length=max_length, seed=seed)


if __name__ == "__main__":
    typer.run(main)
