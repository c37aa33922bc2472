"""A model and a data folder in; seconds of its answers to real prompts by the transformers engine, two ways, out.

python -m bench.generation MODEL DATA --number 64 --out generation.json

`batches` is transformers' own search over padded batches, each until its longest answer ends; `shared` reads what prompts
share once and gives the place of a finished answer to the next prompt (kidcore.models.backends.decoding).
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from kidcore.config.config import DataSettings, IngestSettings
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.prompts import PromptBuilder
from kidcore.models.templates.template import load_template, write_schema
from kidcore.models.tokenizers import load_tokenizer
from kidcore.sql.datasets import read
from kidcore.sql.schema_text import read_schema


def main(
    model: Path,
    data: Path,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("generation.json"),
    number: Annotated[int, typer.Option(help="Held-out questions, the first ones.")] = 64,
    max_new_tokens: int = 160,
    dtype: str = "bfloat16",
    device: str = "cpu",
    repeats: int = 1,
) -> None:
    """Print a line a way, and how many answers are the same."""
    prompts, stops = _prompts(model, data, number)
    engine = TransformersBackend(model, dtype=dtype, device=device, batch_tokens=8192, max_length=4096, verbose=False)
    figures: list[dict[str, Any]] = []
    answers: dict[str, list[list[int]]] = {}
    for _ in range(repeats):
        for way in ("batches", "shared"):
            engine.__dict__["_decodes"] = way == "shared" and engine._shares_prompts
            began, busy = time.perf_counter(), time.process_time()
            answers[way] = list(engine.generate(prompts, max_new_tokens, stops))
            if device == "cuda":
                torch.cuda.synchronize()
            figures.append({"way": way, "seconds": time.perf_counter() - began, "cpu_s": time.process_time() - busy})
            print(f"{way:<8} {figures[-1]['seconds']:8.1f} s {figures[-1]['cpu_s']:8.1f} processor seconds", flush=True)
    lengths = sorted(map(len, answers["shared"]))
    same = sum(one == other for one, other in zip(answers["batches"], answers["shared"], strict=True))
    print(f"{same} of {number} answers are the same; {lengths[number // 2]} tokens in the middle, {lengths[-1]} at most")
    facts = {"model": model.name, "number": number, "same": same, "lengths": lengths, "torch": torch.__version__}
    out.write_text(json.dumps(facts | {"ways": figures}, indent=1) + "\n", encoding="utf-8")


def _prompts(model: Path, data: Path, number: int) -> tuple[list[list[int]], list[int]]:
    dataset = read(DataSettings(path=str(data)), "dev")
    tokenizer, template = load_tokenizer(model), load_template("compact")
    builder = PromptBuilder.of(IngestSettings(), tokenizer)
    prompts = []
    for example in dataset.examples[:number]:
        schema = write_schema(read_schema(dataset.database(example.db_id), example.db_id))
        asked = template.question(example.question, example.evidence, "sqlite")
        prompts.append([*builder.schema_ids(schema), *builder.question_ids(asked)])
    return prompts, [tokenizer.eos_token_id]


if __name__ == "__main__":
    typer.run(main)
