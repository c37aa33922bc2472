"""A tokenizer and text in; ids of ordinary tokens, and the character at which each starts, out.

Text comes from questions, databases and gold SQL. What looks like a control token there (`<|im_end|>`, `<s>`) is spelled with
ordinary tokens; only a chat template's own control tokens become their ids.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kidcore.models.tokenizers import special_ids

# Added tokens that are not marked as special but stand for structure all the same: <|fim_prefix|>, <think>, [IMG].
_MARKUP = re.compile(r"<\|.*\|>|<｜.*｜>|</?[A-Za-z_][\w:-]*>|\[/?[A-Z_]+\]", re.DOTALL)
_ROLES = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "cls_token_id", "sep_token_id")


@dataclass(frozen=True)
class EncodedText:
    """Token ids of a text, and the character at which each of them starts."""

    ids: list[int]
    starts: list[int]


class TextEncoder:
    """Encodes and decodes text with one tokenizer, never giving a control token for text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.control = control_ids(tokenizer)
        # A piece of text with unknown characters becomes the unknown token: lossy, but no control token.
        roles = {getattr(tokenizer, name) for name in _ROLES}
        self._unknown = {tokenizer.unk_token_id} - roles - {None}

    def ids(self, text: str) -> list[int]:
        """The ids of `text`."""
        ids = self.with_control(text)
        return ids if self._is_plain(ids) else self._spelled(text).ids

    def encode(self, text: str) -> EncodedText:
        """The ids of `text` and where they start."""
        if self.tokenizer.is_fast:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            ids, starts = list(encoded["input_ids"]), [start for start, _ in encoded["offset_mapping"]]
        else:
            ids = self.with_control(text)
            starts = self._starts(text, ids)
        return EncodedText(ids, starts) if self._is_plain(ids) else self._spelled(text)

    def with_control(self, text: str) -> list[int]:
        """The ids of text that may hold control tokens: what a chat template writes around ours."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def count_control(self, ids: list[int]) -> int:
        """How many control tokens are among `ids`."""
        return sum(index in self.control for index in ids)

    def count_marks(self, ids: list[int]) -> int:
        """How many of `ids` are control tokens or the unknown token: none in text that is encoded as text."""
        return sum(index in self.control or index in self._unknown for index in ids)

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, control tokens included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _is_plain(self, ids: list[int]) -> bool:
        return self.control.isdisjoint(ids) and self._unknown.isdisjoint(ids)

    def _spelled(self, text: str) -> EncodedText:
        """As `encode`, with control tokens taken out of the vocabulary first."""
        if self._without_control is not None:
            encoded = self._without_control.encode(text, add_special_tokens=False)
            return EncodedText(list(encoded.ids), [start for start, _ in encoded.offsets])
        ids = list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        return EncodedText(ids, self._starts(text, ids))

    @cached_property
    def _without_control(self) -> Any:
        """The tokenizer with the spelling of its control tokens made unmatchable; None where it is written in Python."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        from tokenizers import Tokenizer  # loads with transformers only

        return Tokenizer.from_str(json.dumps(_hide(json.loads(backend.to_str()), self.control | self._unknown)))

    def _starts(self, text: str, ids: list[int]) -> list[int]:
        """Where tokens start, for tokenizers without offsets: as far as the text before each of them agrees."""
        starts: list[int] = []
        reached = 0
        for number in range(len(ids)):
            # Half a character decodes to U+FFFD: the next token starts where that character does.
            before = self.decode(ids[:number]).rstrip("\ufffd")
            agreed = next((i for i, (a, b) in enumerate(zip(text, before, strict=False)) if a != b), min(len(text), len(before)))
            reached = max(reached, agreed)
            starts.append(reached)
        return starts


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that stand for structure: special tokens, but not one that is for unknown text only, and added ones in markup."""
    roles = {getattr(tokenizer, name) for name in _ROLES}
    unknown = {tokenizer.unk_token_id} - roles
    added = {int(index) for index, token in tokenizer.added_tokens_decoder.items() if _MARKUP.fullmatch(token.content)}
    return frozenset((special_ids(tokenizer) | added) - unknown)


def _hide(content: dict[str, Any], hidden: frozenset[int] | set[int]) -> dict[str, Any]:
    """tokenizer.json with the tokens `hidden` under names that no text holds; their ids stay."""
    name = "\ue000{}\ue001".format
    for token in content.get("added_tokens") or []:
        if token["id"] in hidden:
            token |= {"content": name(token["id"]), "normalized": False}
    model = content["model"]
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        merges = {tuple(merge.split(" ") if isinstance(merge, str) else merge): merge for merge in model.get("merges") or []}
        prefix = model.get("continuing_subword_prefix") or ""
        results = {pair: pair[0] + pair[1].removeprefix(prefix) for pair in merges}
        # A character of its own that words are merged from stays: without it they could not be written.
        kept = {part for pair in merges for part in pair} - set(results.values())
        names = {token: name(index) for token, index in vocab.items() if index in hidden and token not in kept}
        for token, unseen in names.items():
            vocab[unseen] = vocab.pop(token)
            if model.get("unk_token") == token:
                model["unk_token"] = unseen
        if merges:
            model["merges"] = [merge for pair, merge in merges.items() if names.keys().isdisjoint({*pair, results[pair]})]
    elif isinstance(vocab, list):
        for index in hidden:
            if index < len(vocab):
                vocab[index][0] = name(index)
    # Names of control tokens in it would no longer be found; it only matters where control tokens are asked for.
    return content | {"post_processor": None, "truncation": None, "padding": None}
