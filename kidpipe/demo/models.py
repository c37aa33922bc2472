"""Texts in, a byte-level BPE tokenizer out; sizes in, a random Qwen2 model out. Both save in the usual Hugging Face form."""

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from kidcore.errors import KidpipeError

SPECIAL_TOKENS = ("<pad>", "<eos>", "<mask>", "<unk>")
# Words keep their underscores and one trailing digit (T1), digits of numbers stand alone so that values can be copied
# digit by digit. Every character falls in one of the branches: nothing is lost.
_SPLIT = r" ?[\p{L}_]+\d?| ?\p{N}| ?[^\s\p{L}\p{N}_]+|\s+"
# Sizes of an attention head that vLLM's CPU kernels take.
_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)

# Narrow models learn sooner from weights of this spread than from the usual 0.02: after 12,000 examples of the demo world a
# width of 96 had 34% of held-out queries exactly right instead of 15% (one seed, all else equal).
_INITIAL_SPREAD = 0.08


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from `texts`; any text survives encode and decode unchanged."""
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise KidpipeError(f"a vocabulary of {vocab_size} has no room for all bytes", fix=f"ask for {smallest} or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, eos, mask, unk = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=eos,
        mask_token=mask,
        unk_token=unk,
        clean_up_tokenization_spaces=False,
    )


def make_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    max_length: int,
    seed: int,
) -> Qwen2ForCausalLM:
    """A float32 Qwen2 with tied embeddings and random weights, the same for the same arguments."""
    if hidden_size % heads or heads % kv_heads:
        raise KidpipeError(
            f"hidden size {hidden_size}, {heads} heads and {kv_heads} key-value heads do not go together",
            fix="hidden size must be a multiple of heads, and heads of key-value heads",
        )
    if hidden_size // heads not in _HEAD_SIZES:
        sizes = ", ".join(map(str, _HEAD_SIZES))
        raise KidpipeError(
            f"a head of {hidden_size // heads} dimensions does not run on vLLM's CPU build",
            fix=f"choose hidden size / heads among {sizes}",
        )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=_INITIAL_SPREAD,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).float()
