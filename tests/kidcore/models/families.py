"""Tokenizers of eight families, made small on the spot."""

import json
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

TEXTS = [
    "database: city\ncity: id integer primary key, name text, people int\nforeign keys: a.b = c.d\n",
    "question: how many are there?\nevidence: none\nsql:\nselect count(*) from city where people >= 30 order by name limit 3",
    "SELECT name, avg(people) FROM city AS T1 JOIN country AS T2 ON T1.id = T2.id GROUP BY name HAVING x <> 'y' -- 0123456789",
    "".join(map(chr, range(33, 127))),
] * 8


def byte_level(specials: list[str], *, split: str = "", normalizer: Any = None) -> Tokenizer:
    """A byte-level BPE, which writes any text."""
    bpe = Tokenizer(models.BPE())
    if split:
        cut = pre_tokenizers.Split(Regex(split), behavior="isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        bpe.pre_tokenizer = pre_tokenizers.Sequence([cut, level])
    else:
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        bpe.normalizer = normalizer
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(TEXTS, trainer)
    return bpe


def qwen() -> Any:
    """Byte-level BPE with NFC and a pad token of its own; chat roles as further special tokens."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    split = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(specials, split=split, normalizer=normalizers.NFC()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.add_tokens([AddedToken("<|fim_prefix|>", special=False), AddedToken("<think>", special=False)])
    return tokenizer


def gpt2() -> Any:
    """Byte-level BPE whose one special token is begin, end, pad and unknown at once; a mask token as people add it."""
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level([end]), bos_token=end, eos_token=end, unk_token=end)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


def llama3() -> Any:
    """Byte-level BPE that puts a BOS before a text; neither pad nor unknown, but reserved tokens behind a hole in the ids."""
    begin, end, spare = "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"
    bpe = byte_level([begin, end, spare])
    one, two = bpe.token_to_id(begin), bpe.token_to_id(end)
    bpe.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, one), (end, two)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=begin, eos_token=end, additional_special_tokens=[spare])


def llama2() -> Any:
    """BPE on pieces with "▁" for a space, bytes where a character is unknown, and a BOS."""
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=220, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    bpe.train_from_iterator(TEXTS, trainer)
    state = json.loads(bpe.to_str())
    vocab = state["model"]["vocab"]
    vocab |= {token: len(vocab) + number for number, token in enumerate(bytes_)}
    bpe = Tokenizer.from_str(json.dumps(state))
    cleared = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bpe.decoder = decoders.Sequence(cleared)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def unigram() -> Any:
    """Sentencepiece's Unigram, with "▁" for a space; its control tokens are pieces of the vocabulary."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def wordpiece() -> Any:
    """BERT's: words and pieces of words, which decode with other spaces than they were read with."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[SEP]", **named)


def bytes_only() -> Any:
    """ByT5's way: every byte a token, no merges; and added tokens that are words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<pad>", "</s>"]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate([*specials, *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")
    made.add_tokens(
        [AddedToken("SELECT", special=False, normalized=False), AddedToken(" FROM ", special=False, normalized=False)]
    )
    return made


def byt5() -> Any:
    """A tokenizer written in Python, without offsets: ByT5's, a byte a token."""
    return ByT5Tokenizer(extra_ids=2)


FAMILIES: dict[str, Callable[[], Any]] = {
    "qwen": qwen,
    "gpt2": gpt2,
    "llama3": llama3,
    "llama2": llama2,
    "unigram": unigram,
    "wordpiece": wordpiece,
    "bytes": bytes_only,
    "python": byt5,
}
GIVES_SQL_BACK = set(FAMILIES) - {"wordpiece"}
