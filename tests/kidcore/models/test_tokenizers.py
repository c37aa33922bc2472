"""Tokenizers trained on the spot in; digests, comparisons and special ids out."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kidcore.errors import KidpipeError
from kidcore.models.tokenizers import eos_id, load_tokenizer, mask_token_id, require_same, special_ids, tokenizer_digest

_TEXTS = ["SELECT name FROM singer WHERE age > 30", "question: How many singers are there? sql:"] * 10
_SPECIALS = {"pad_token": "<pad>", "eos_token": "<eos>", "mask_token": "<mask>"}


def _train(texts: list[str] = _TEXTS, *, lowercase: bool = False, vocab_size: int = 330, **specials: str) -> Any:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    if lowercase:
        bpe.normalizer = normalizers.Lowercase()
    names = [*_SPECIALS.values(), "<|sep|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **(specials or _SPECIALS))


def test_digest_is_the_same_after_saving_and_using(tmp_path: Path) -> None:
    tokenizer = _train()
    digest = tokenizer_digest(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert tokenizer_digest(loaded) == digest
    # Padding and truncation stay set in the tokenizer after such a call.
    loaded(["SELECT", "SELECT name"], padding=True, truncation=True, max_length=4)
    assert tokenizer_digest(loaded) == digest


def test_tokenizer_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """transformers would rebuild it by the class that it knows for the model type, and encode differently."""
    tokenizer = _train()
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    assert load_tokenizer(tmp_path).encode("year >= 2014, 30") == tokenizer.encode("year >= 2014, 30")


@pytest.mark.parametrize("other", [_train(lowercase=True), _train(_TEXTS[:1]), _train(eos_token="<eos>", pad_token="<eos>")])
def test_digest_tells_tokenizers_apart(other: Any) -> None:
    assert tokenizer_digest(other) != tokenizer_digest(_train())


def test_equal_tokenizers_are_accepted(tmp_path: Path) -> None:
    _train().save_pretrained(tmp_path)
    require_same(_train(), load_tokenizer(tmp_path))


def test_same_vocabulary_but_other_normaliser_is_refused_with_the_text() -> None:
    teacher = _train(["select name"] * 5)
    student = _train(["select name"] * 5, lowercase=True)
    assert teacher.get_vocab() == student.get_vocab()
    with pytest.raises(KidpipeError, match=r"encodes 'SELECT count\(\*\) FROM singer' differently"):
        require_same(teacher, student)


def test_other_ids_of_unused_tokens_are_refused() -> None:
    teacher, student = _train(), _train()
    teacher.add_tokens(["<one>", "<two>"])
    student.add_tokens(["<two>", "<one>"])
    with pytest.raises(KidpipeError, match=r"2 tokens have another id[\s\S]*'<one>'"):
        require_same(teacher, student)


def test_other_end_of_sequence_is_refused() -> None:
    with pytest.raises(KidpipeError, match="end a sequence with different tokens"):
        require_same(_train(), _train(eos_token="<|sep|>", pad_token="<pad>", mask_token="<mask>"))


def test_mask_token_falls_back_in_order() -> None:
    tokenizer = _train()
    assert mask_token_id(tokenizer, "auto") == tokenizer.mask_token_id
    assert mask_token_id(_train(eos_token="<eos>", pad_token="<pad>"), "auto") == tokenizer.pad_token_id
    # What lies idle in the vocabulary, but never the end of sequence.
    assert mask_token_id(_train(eos_token="<eos>"), "auto") == tokenizer.convert_tokens_to_ids("<mask>")


def test_named_mask_token() -> None:
    tokenizer = _train()
    assert mask_token_id(tokenizer, "<|sep|>") == tokenizer.convert_tokens_to_ids("<|sep|>")
    with pytest.raises(KidpipeError, match=r"no token '<msk>'[\s\S]*did you mean <mask>"):
        mask_token_id(tokenizer, "<msk>")


def test_special_ids_hold_named_and_added_ones() -> None:
    tokenizer = _train()
    tokenizer.add_tokens(["singer_id"])
    assert special_ids(tokenizer) == {tokenizer.convert_tokens_to_ids(token) for token in [*_SPECIALS.values(), "<|sep|>"]}


def test_eos_is_required() -> None:
    assert eos_id(_train()) == 1
    with pytest.raises(KidpipeError, match="no end-of-sequence token"):
        eos_id(_train(pad_token="<pad>"))


def test_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KidpipeError, match="no tokenizer could be loaded"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["TokenizersBackend", "Qwen2Tokenizer"])
def test_a_tokenizer_that_lost_its_vocabulary_is_refused(tmp_path: Path, kind: str) -> None:
    _train().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8")) | {"tokenizer_class": kind}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    # Without some libraries beside it transformers refuses the folder itself.
    with pytest.raises(KidpipeError, match=r"tokenizer has no vocabulary|no tokenizer could be loaded"):
        load_tokenizer(tmp_path)


def test_long_texts_are_encoded_without_warning(tmp_path: Path) -> None:
    tokenizer = _train()
    tokenizer.model_max_length = 8
    tokenizer.save_pretrained(tmp_path)
    assert len(load_tokenizer(tmp_path).encode("SELECT " * 50)) > 8
