"""The demo's tokenizer and model: exact round trips, and folders that load again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kidcore.errors import KidpipeError
from kidcore.models.backends.base import ScoreRequest
from kidpipe.demo.models import SPECIAL_TOKENS, make_model, train_tokenizer
from kidpipe.demo.world import make_world
from tests.kidcore.models.backends.conftest import open_vllm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SIZES = {"hidden_size": 64, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 96, "max_length": 256, "seed": 0}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, num_train=600, num_dev=0, seed=0)
    return [
        text
        for entry in json.loads((folder / "train_spider.json").read_text(encoding="utf-8"))
        for text in (entry["question"], entry["query"])
    ]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> "PreTrainedTokenizerFast":
    return train_tokenizer(texts, 1024)


def test_special_tokens_come_first_and_are_never_added(tokenizer: "PreTrainedTokenizerFast") -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]
    assert tokenizer.pad_token_id == 0
    assert tokenizer.eos_token == "<eos>"
    assert tokenizer.mask_token == "<mask>"
    assert not set(tokenizer.encode("SELECT 1")) & set(tokenizer.all_special_ids)


def test_every_sql_survives(tokenizer: "PreTrainedTokenizerFast", texts: list[str]) -> None:
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text())
def test_any_text_survives(tokenizer: "PreTrainedTokenizerFast", text: str) -> None:
    if not any(token in text for token in SPECIAL_TOKENS):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokens_suit_copying(tokenizer: "PreTrainedTokenizerFast") -> None:
    assert len(tokenizer.encode("12345")) == 5
    assert tokenizer.tokenize("T1.name")[0] == "T1"


def test_tokenizer_is_the_same_after_saving_and_for_the_same_texts(
    tokenizer: "PreTrainedTokenizerFast", texts: list[str], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab() == train_tokenizer(texts, 1024).get_vocab()
    for text in [*texts[:200], "  two  spaces , and ' quotes '", "naïve ⟨tokens⟩\n\tend "]:
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.decode(loaded.encode(text)) == text
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.mask_token_id) == (1, 0, 2)


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(KidpipeError, match="no room"):
        train_tokenizer(["SELECT 1"], 200)


def test_model_is_seeded_and_loads_again(tokenizer: "PreTrainedTokenizerFast", tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = make_model(tokenizer, **SIZES)
    same, other = make_model(tokenizer, **SIZES), make_model(tokenizer, **{**SIZES, "seed": 1})
    ids = torch.tensor([tokenizer.encode("SELECT name FROM singer")])
    with torch.no_grad():
        expected = model(ids).logits
        assert torch.equal(expected, same(ids).logits)
        assert not torch.equal(expected, other(ids).logits)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(expected, loaded(ids).logits)
    assert loaded.dtype == torch.float32
    assert loaded.config.model_type == "qwen2"
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.config.vocab_size == len(tokenizer)
    assert loaded.config.eos_token_id == tokenizer.eos_token_id


def test_making_a_model_leaves_the_global_random_stream_alone(tokenizer: "PreTrainedTokenizerFast") -> None:
    import torch

    before = torch.random.get_rng_state()
    make_model(tokenizer, **SIZES)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "change",
    [{"heads": 4}, {"heads": 3}, {"heads": 2, "kv_heads": 3}],
    ids=["head size 16", "hidden size not a multiple", "heads not a multiple"],
)
def test_sizes_that_cannot_run_are_refused(tokenizer: "PreTrainedTokenizerFast", change: dict[str, int]) -> None:
    with pytest.raises(KidpipeError) as error:
        make_model(tokenizer, **{**SIZES, **change})
    assert error.value.fix


@pytest.mark.engine
@pytest.mark.vllm
def test_vllm_reads_the_same_model_in_the_folder(tokenizer: "PreTrainedTokenizerFast", tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    import torch

    model = make_model(tokenizer, **SIZES)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer.encode("SELECT name FROM singer WHERE age > 40")
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [logprobs[place, token].item() for place, token in enumerate(ids[1:])]
    engine = open_vllm(tmp_path, max_length=256)
    (answer,) = engine.score([ScoreRequest(np.array(ids, dtype=np.int32), 1)], 1)
    engine.close()
    assert answer.actual_logprob.tolist() == pytest.approx(expected, abs=2e-4)
