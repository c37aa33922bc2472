"""What TRL's trainers are given: the token ids, labels and batches that ours has. TRL itself is not needed."""

import numpy as np
import torch

from bench.students import Load
from bench.trl_turns import collate, micro_batch, row_of
from train.data.examples import Branch, TrainingExample


def example(prompt: int, sql: int) -> TrainingExample:
    tokens = np.arange(2, 2 + prompt + sql, dtype=np.int32)
    return TrainingExample("e", "db", (Branch(tokens, prompt, 1, True, None),))


def test_labels_mask_the_prompt_and_end_with_the_eos() -> None:
    assert row_of(example(2, 3)) == {"input_ids": [2, 3, 4, 5, 6, 1], "labels": [-100, -100, 4, 5, 6, 1], "prompts": [2, 3]}


def test_a_batch_is_padded_as_gkd_wants_it() -> None:
    batch = collate([row_of(example(1, 1)), row_of(example(3, 1))], pad_id=0)
    assert batch["input_ids"].tolist() == [[2, 3, 1, 0, 0], [2, 3, 4, 5, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 3, 1, -100, -100], [-100, -100, -100, 5, 1]]
    assert batch["prompts"].tolist() == [[0, 0, 2], [2, 3, 4]]
    assert batch["prompt_attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_a_micro_batch_divides_the_batch_and_fits_the_pack() -> None:
    load = Load(batch_size=32, pack_tokens=1000, steps=1, device="cpu")
    found = micro_batch([example(180, 20)] * 32, load)
    assert found == {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8}
    assert micro_batch([example(5000, 20)] * 32, load)["per_device_train_batch_size"] == 1
    assert micro_batch([example(5, 5)] * 32, load) == {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1}
    assert micro_batch([example(5, 5)] * 32, load, 4)["per_device_train_batch_size"] == 4
