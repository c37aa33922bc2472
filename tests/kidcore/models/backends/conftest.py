"""Texts in, a tiny Qwen2 with its own byte-level BPE tokenizer in a folder out: real engines load it within seconds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from kidcore.config.config import EngineSettings
from kidcore.models.backends.base import ScoreRequest, TopK
from kidcore.models.backends.select import open_backend
from kidcore.models.backends.transformers import TransformersBackend
from kidcore.models.backends.vllm import VllmBackend

_CORPUS = [
    "table singer: singer_id (number, primary key), name (text), country (text), age (number)",
    "question: How many singers are older than 30? sql: SELECT count(*) FROM singer WHERE age > 30",
    "SELECT T1.name, avg(T2.price) FROM shop AS T1 JOIN sale AS T2 ON T1.id = T2.shop_id GROUP BY T1.name ORDER BY 2 DESC",
] * 20


def save_tiny_model(folder: Path, *, heads: int = 2, max_length: int = 512, seed: int = 0) -> Path:
    """A random float32 Qwen2 with its tokenizer; 2 heads of 32 are the narrowest that vLLM's CPU attention takes."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<eos>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=419, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", mask_token="<mask>")
    config = Qwen2Config(
        # 435 rows: more than the tokenizer's tokens, and no multiple of the 64 that vLLM pads to
        vocab_size=435,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=1,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        initializer_range=0.2,
        eos_token_id=1,
        pad_token_id=0,
        dtype="float32",
    )
    torch.manual_seed(seed)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random model, 512 tokens long."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def random_requests(count: int, *, seed: int, shared: int = 0) -> list[ScoreRequest]:
    """Requests of 20 to 200 random tokens with 1 to 30 scored; the first `shared` tokens are the same in groups of four."""
    rng = np.random.default_rng(seed)
    requests = []
    prefix = rng.integers(3, 380, size=shared)
    for index in range(count):
        if index % 4 == 0:
            prefix = rng.integers(3, 380, size=shared)
        rest = rng.integers(3, 380, size=rng.integers(20, 200 if not shared else 60))
        token_ids = np.concatenate([prefix, rest]).astype(np.int32)
        requests.append(ScoreRequest(token_ids, len(token_ids) - int(rng.integers(1, 20))))
    return requests


def engine_settings(**changes: object) -> EngineSettings:
    """A small vLLM engine on the CPU."""
    return EngineSettings.model_validate({"backend": "vllm", "device": "cpu", "kv_cache_mib": 32, "batch_tokens": 1024} | changes)


def open_vllm(folder: Path, *, max_length: int = 512, **changes: object) -> VllmBackend:
    """The model in `folder` in such an engine."""
    backend = open_backend(folder, engine_settings(**changes), max_top_k=16, max_length=max_length)
    assert isinstance(backend, VllmBackend)
    return backend


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> Iterator[TransformersBackend]:
    """The tiny model in the reference engine."""
    engine = TransformersBackend(tiny_model, dtype="float32", device="cpu", batch_tokens=2048, max_length=512, verbose=False)
    yield engine
    engine.close()


class News:
    """Hears of progress: (finished, under way), time by time."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def __call__(self, finished: int, under_way: int = 0, /) -> None:
        self.heard.append((finished, under_way))

    @property
    def finished(self) -> int:
        return sum(finished for finished, _under_way in self.heard)


def assert_same(ours: list[TopK], theirs: list[TopK]) -> None:
    """The likeliest token everywhere, and log-probabilities within 2e-4."""
    for our, their in zip(ours, theirs, strict=True):
        assert (our.ids.dtype, our.logprobs.dtype, our.actual_logprob.dtype) == (np.int32, np.float32, np.float32)
        np.testing.assert_array_equal(our.ids[:, 0], their.ids[:, 0])
        np.testing.assert_allclose(our.logprobs, their.logprobs, atol=2e-4)
        np.testing.assert_allclose(our.actual_logprob, their.actual_logprob, atol=2e-4)
