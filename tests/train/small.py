"""Small real things for the trainer's tests: a 2-layer Qwen2, drawn examples, shards in the schemas of kidpipe.schemas."""

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from train.examples import Branch, Example, Teacher

VOCAB_SIZE = 61
EOS = 1


def make_student(tied: bool = True, sliding_window: int = 0, seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        eos_token_id=EOS,
        bos_token_id=None,
        pad_token_id=None,
        use_sliding_window=bool(sliding_window),
        sliding_window=sliding_window or None,
        max_window_layers=0,
    )
    model = Qwen2ForCausalLM(config)
    # The default initialisation makes nearly flat predictions, which hide mistakes in the loss.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.ndim == 2 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_teacher(rng: np.random.Generator, length: int, top_k: int = 6) -> Teacher:
    logits = rng.normal(size=(length, VOCAB_SIZE)) * 3
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-logprobs, axis=-1)
    count = rng.integers(1, top_k + 1, size=length)
    ids = np.concatenate([order[i, : count[i]] for i in range(length)])
    kept = np.concatenate([logprobs[i, order[i, : count[i]]] for i in range(length)])
    tail = np.array([1 - np.exp(logprobs[i, order[i, : count[i]]]).sum() for i in range(length)])
    return Teacher(count.astype(np.int16), ids.astype(np.int32), kept.astype(np.float16), tail.astype(np.float32))


def make_examples(rng: np.random.Generator, databases: int, questions: int, views: int) -> list[Example]:
    """Gold and `views` imperfect branches a question; branches often share their first SQL tokens, or all of them."""
    examples = []
    for database in range(databases):
        schema = rng.integers(2, VOCAB_SIZE, size=rng.integers(1, 40))
        for question in range(questions):
            prompt = np.concatenate([schema, rng.integers(2, VOCAB_SIZE, size=rng.integers(1, 8))])
            gold = rng.integers(2, VOCAB_SIZE, size=rng.integers(1, 12))
            branches = [Branch(np.concatenate([prompt, gold]).astype(np.int32), len(prompt), EOS, True, None)]
            for _ in range(views):
                imperfect = np.where(rng.random(len(gold)) < 0.2, rng.integers(2, VOCAB_SIZE, size=len(gold)), gold)
                tokens = np.concatenate([prompt, imperfect]).astype(np.int32)
                branches.append(Branch(tokens, len(prompt), EOS, False, make_teacher(rng, len(gold) + 1)))
            examples.append(Example(f"e{database}-{question}", f"db{database}", tuple(branches)))
    return examples
