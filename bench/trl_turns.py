"""The examples that our trainer gets in; turns of TRL's trainers over the same token ids out.

Each runs as its documentation says, through `trainer.train()` for two epochs, its data loader included; the second is timed,
start-up and tokenising are not. Changed from the defaults, in TRL's favour or to compare like with like: no gradient
checkpointing (it costs a fifth of the time), examples in the given order (neighbours have like lengths, so there is less
padding), no logging to services, no checkpoints, the optimiser and precision that ours has.
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from bench.students import Load, Shape, make_model
from bench.timing import Cost, PeakMemory, Stopwatch, Turn
from kidcore.errors import KidpipeError
from train.data.examples import TrainingExample

Make = Callable[[Any, dict[str, Any]], Any]
"""(student, training arguments that all share) -> a TRL trainer."""


def require_trl() -> None:
    """Refuse to begin without TRL."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import datasets
            import trl  # noqa: F401
    except ImportError as error:
        raise KidpipeError(
            f"TRL cannot be imported: {error}", where="bench.against_trl", fix="pip install -e '.[bench]'"
        ) from error
    datasets.disable_progress_bars()


def sft_turn(shape: Shape, load: Load, steps: list[list[TrainingExample]], tokenizer: Any, *, packing: bool) -> Turn:
    """SFTTrainer on tokenised examples whose labels mask the prompt; padded, or packed (best fit, padding-free)."""
    from datasets import Dataset

    examples = [example for step in steps for example in step]
    rows = [row_of(example) for example in examples]
    dataset = Dataset.from_list([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows])
    row_tokens = max(load.pack_tokens, max(len(row["input_ids"]) for row in rows))
    batch = _packed_batch(dataset, row_tokens, load) if packing else micro_batch(examples, load)

    def make(student: Any, shared: dict[str, Any]) -> Any:
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(max_length=row_tokens if packing else None, packing=packing, **shared, **batch)
        return SFTTrainer(student, args=arguments, train_dataset=dataset, processing_class=tokenizer)

    return partial(_take_turn, shape, load, make, len(examples))


def distillation_turn(
    shape: Shape,
    load: Load,
    steps: list[list[TrainingExample]],
    tokenizer: Any,
    make_teacher: Callable[[], Any],
    prompts: dict[str, str],
    new_tokens: int,
) -> Turn:
    """DistillationTrainer: the student writes `new_tokens` tokens a prompt, the teacher judges them, reverse KL."""
    from datasets import Dataset

    examples = [example for step in steps for example in step]
    dataset = Dataset.from_list([{"prompt": prompts[example.example_id]} for example in examples])

    def make(student: Any, shared: dict[str, Any]) -> Any:
        from trl import DistillationConfig, DistillationTrainer

        arguments = DistillationConfig(
            max_completion_length=new_tokens, shuffle_dataset=False, **shared, **micro_batch(examples, load)
        )
        return DistillationTrainer(
            student, teacher_model=make_teacher(), args=arguments, train_dataset=dataset, processing_class=tokenizer
        )

    return partial(_take_turn, shape, load, make, len(examples))


def gkd_turn(
    shape: Shape,
    load: Load,
    steps: list[list[TrainingExample]],
    tokenizer: Any,
    make_teacher: Callable[[], Any],
    *,
    rows: int = 0,
) -> Turn:
    """GKDTrainer with lmbda = 0: no generation; the teacher runs on the gold SQL in each step, reverse KL."""
    from datasets import Dataset

    examples = [example for step in steps for example in step]
    dataset = Dataset.from_list([row_of(example) for example in examples])
    batch = micro_batch(examples, load, rows)

    def make(student: Any, shared: dict[str, Any]) -> Any:
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        arguments = GKDConfig(lmbda=0.0, beta=1.0, temperature=1.0, max_length=None, **shared, **batch)
        return GKDTrainer(
            student,
            teacher_model=make_teacher(),
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            data_collator=partial(collate, pad_id=tokenizer.pad_token_id),
        )

    return partial(_take_turn, shape, load, make, len(examples))


def row_of(example: TrainingExample) -> dict[str, list[int]]:
    """Prompt and SQL as TRL wants them: labels of the prompt are masked, the EOS is a target."""
    branch = example.branches[0]
    prompt, targets = branch.tokens[: branch.start].tolist(), branch.targets.tolist()
    return {"input_ids": prompt + targets, "labels": [-100] * len(prompt) + targets, "prompts": prompt}


def micro_batch(examples: Sequence[TrainingExample], load: Load, rows: int = 0) -> dict[str, int]:
    """Rows of a micro-batch: as many as put about `pack_tokens` tokens into one forward pass."""
    longest = sorted(len(example.branches[0].tokens) for example in examples)[-len(examples) // 8]
    fit = rows or max(1, load.pack_tokens // longest)
    rows = next(x for x in range(min(fit, load.batch_size), 0, -1) if load.batch_size % x == 0)
    return {"per_device_train_batch_size": rows, "gradient_accumulation_steps": load.batch_size // rows}


def _packed_batch(dataset: Any, row_tokens: int, load: Load) -> dict[str, int]:
    """Packed rows a step: as many as hold the examples of one of our steps."""
    from trl import pack_dataset

    rows = len(pack_dataset(dataset, row_tokens, "bfd"))
    return {"per_device_train_batch_size": 1, "gradient_accumulation_steps": max(1, round(rows / load.steps))}


def collate(rows: list[dict[str, list[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    """What TRL's own collator for chats makes, from token ids."""

    def pad(values: list[list[int]], fill: int, *, left: bool = False) -> torch.Tensor:
        width = max(map(len, values))
        return torch.tensor([[fill] * (width - len(x)) + x if left else x + [fill] * (width - len(x)) for x in values])

    ids, prompts = [row["input_ids"] for row in rows], [row["prompts"] for row in rows]
    return {
        "input_ids": pad(ids, pad_id),
        "attention_mask": pad([[1] * len(x) for x in ids], 0),
        "labels": pad([row["labels"] for row in rows], -100),
        "prompts": pad(prompts, pad_id, left=True),
        "prompt_attention_mask": pad([[1] * len(x) for x in prompts], 0, left=True),
    }


def _shared(load: Load, folder: str) -> dict[str, Any]:
    """Arguments that every trainer gets: what our trainer does, and nothing that only reports."""
    return {
        "output_dir": folder,
        "num_train_epochs": 2,
        "train_sampling_strategy": "sequential",
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "adam_beta2": 0.99,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": False,
        "bf16": load.device == "cuda",
        "use_cpu": load.device == "cpu",
        "logging_first_step": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": load.device == "cuda",
        "seed": 0,
    }


def _take_turn(shape: Shape, load: Load, make: Make, num_examples: int, measure_memory: bool) -> Cost:
    watch, peak = Stopwatch(load.device), PeakMemory(load.device, wanted=measure_memory)
    if load.device == "cuda":
        peak.start()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        trainer = make(make_model(shape, load.device), _shared(load, folder))
        trainer.add_callback(_callback(watch, peak, load))
        _quiet(trainer)
        trainer.train()
    if load.device == "cuda":
        peak.stop()
    first = next(line["loss"] for line in trainer.state.log_history if "loss" in line)
    assert watch.wall_s > 0, "the second epoch was not seen"
    return Cost(num_examples, watch.wall_s, watch.cpu_s, peak.mib, first_loss=float(first))


def _quiet(trainer: Any) -> None:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _callback(watch: Stopwatch, peak: PeakMemory, load: Load) -> Any:
    """Times the second epoch, from the end of one optimiser step to the end of another, as ours is."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, _arguments: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == state.max_steps // 2 - 1 and load.device == "cpu":
                peak.start()

        def on_step_end(self, _arguments: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == state.max_steps // 2:
                if load.device == "cpu":
                    peak.stop()
                watch.start()
            if state.global_step == state.max_steps:
                watch.stop()

    return Timer()
