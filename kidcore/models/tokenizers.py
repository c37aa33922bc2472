"""A model folder goes in; its tokenizer, a hash of how it encodes, and the ids of special tokens come out."""

import difflib
import json
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from kidcore.config.settings import fingerprint
from kidcore.errors import KidpipeError, first_line

_UNLIMITED = 10**9
_STATEFUL = ("padding", "truncation", "version")
"""Parts of tokenizer.json that calls change or that name the writer; kidpipe never pads or cuts through them."""

_SPARE = ("mask", "pad", "unused", "reserved", "extra", "blank")
"""What is in the names of special tokens that models keep for no use of their own, the fittest first."""

_MADE = ("<pad>", "<eos>", "<mask>", "<unk>")
"""What the vocabularies of made models begin with (kidpipe demo): they name their mask token, as hardly a language model does."""
_PADS = ("<|endoftext|>", "<｜end▁of▁sentence｜>", "<pad>", "<unk>")
"""What Qwen2.5, DeepSeek and Mistral pad with, or have instead: their configurations do not say it."""

_BATTERY = (
    "SELECT count(*) FROM singer",
    "SELECT T1.name, T2.year FROM stadium AS T1 JOIN concert AS T2 ON T1.stadium_id = T2.stadium_id WHERE T2.year >= 2014",
    "select avg(age), min(age) from singer where country = 'France' group by sex having count(*) > 1 order by 1 desc limit 3",
    'SELECT "Free Meal Count (K-12)" / `Enrollment (K-12)` FROM frpm WHERE [County Name] LIKE "%Alameda%"',
    "SELECT DISTINCT a FROM t WHERE b BETWEEN -1.5e-3 AND 10000000 EXCEPT SELECT c FROM u WHERE d IS NOT NULL;",
    "CREATE TABLE perpetrator (perpetrator_id INTEGER PRIMARY KEY, people_id INT REFERENCES people(people_id), injured REAL)",
    "stuid, allergytype_id, Has_Allergy, lName, cityCode, T1_T2, loc_zip5, __rowid__",
    "What's the average age of all students who don't own a pet? Isn't it 21.5?",
    "0 1 12 123 1234 12345 3.14159 1,000,000 2019-02-28 12:30:00 +1-202-555-0143 0x1F 50%",
    "Zürich, São Paulo, naïve façade, Łódź, Ærøskøbing, ﬁne ligature, a\u0301 combining",
    "数据库里有多少名歌手? データベース 한국어 Сколько певцов? كم عدد المغنين؟ שלום हिन्दी",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 maths ∑∀∃≤≥ currency €£¥ arrows →",
    "  leading, trailing  \t tab\ttab \n\n two lines\r\n crlf\u00a0nbsp \u3000wide   ",
    "!=<>||==->>:=@#$%^&*()[]{}\\/'\"`~;:,.?",
    "a",
    " ",
    "\n",
)
"""Texts of the kind that kidpipe encodes, each with something that tokenizers treat differently."""


@dataclass(frozen=True)
class Tokens:
    """The ids that masking, filling and scoring need to know."""

    mask_id: int
    eos_id: int
    vocab_size: int
    """Ids from here on are no tokens: models pad their vocabularies."""
    banned: Collection[int]
    """Ids that never fill a hole: special tokens would not be SQL, and ids without a token have no text."""

    @property
    def margin(self) -> int:
        """How many more of the best to ask for at a hole, so that enough real ones remain; some tokenizers ban hundreds."""
        return min(len(self.banned), 32)


def load_tokenizer(model_path: str | Path) -> Any:
    """The tokenizer in a local model folder."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        loader = PreTrainedTokenizerFast if (Path(model_path) / "tokenizer.json").is_file() else AutoTokenizer
        tokenizer = loader.from_pretrained(str(model_path), local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception on files it cannot read
        raise KidpipeError(
            f"no tokenizer could be loaded: {first_line(error)}",
            where=str(model_path),
            fix="the model folder needs tokenizer.json (or the tokenizer's own files) beside its weights",
        ) from error
    # Without its vocabulary (tokenizer.json, vocab.json) transformers makes some tokenizers of the special tokens alone.
    if set(tokenizer.encode("SELECT", add_special_tokens=False)) <= {tokenizer.unk_token_id}:
        raise KidpipeError(
            f"the tokenizer has no vocabulary: {len(tokenizer)} tokens, and none to write SELECT with",
            where=str(model_path),
            fix="copy tokenizer.json (or the tokenizer's own files) from the model's source again",
        )
    # Lengths are checked against the model where they matter; the tokenizer's own limit would only print a warning.
    tokenizer.model_max_length = _UNLIMITED
    return tokenizer


def tokenizer_digest(tokenizer: Any) -> str:
    """A hash over all that decides encodings: vocabulary, merges, normaliser, pre- and post-processor, special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = {key: value for key, value in json.loads(backend.to_str()).items() if key not in _STATEFUL}
    else:  # tokenizers written in Python have no one file: what they do is hashed instead
        encodings = [tokenizer.encode(text, add_special_tokens=False) for text in _BATTERY]
        content = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab(), "encodings": encodings}
    return fingerprint({"content": content, "special": dict(tokenizer.special_tokens_map)})


def require_same(teacher: Any, student: Any) -> None:
    """Raise KidpipeError unless both tokenizers give every text the same ids.

    Stored ids are the teacher's, so the student must read them alike. Output layers padded beyond the tokenizer
    (Qwen: 151,936 rows for 151,665 tokens) do not matter: only tokens are compared.
    """
    fix = "use a student of the teacher's model family, or save the teacher's tokenizer with the student"
    if text := _encoded_differently(teacher, student):
        ours, theirs = (tokenizer.encode(text, add_special_tokens=False) for tokenizer in (teacher, student))
        raise KidpipeError(
            f"the student's tokenizer encodes {_shorten(text)!r} differently",
            where=f"teacher: {_show(teacher, ours)}\n         student: {_show(student, theirs)}",
            fix=fix,
        )
    ours, theirs = teacher.get_vocab(), student.get_vocab()
    if differing := sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)):
        token = differing[0]
        raise KidpipeError(
            f"{len(differing)} tokens have another id in the student's tokenizer than in the teacher's",
            where=f"token {token!r}: teacher {ours.get(token, 'none')}, student {theirs.get(token, 'none')}",
            fix=fix,
        )
    if eos_id(teacher) != eos_id(student):
        raise KidpipeError(
            "the tokenizers end a sequence with different tokens",
            where=f"teacher {teacher.eos_token!r}, student {student.eos_token!r}",
            fix="set eos_token alike in both tokenizer_config.json: the student learns to stop with the teacher's",
        )


def first_difference(first: Any, second: Any) -> str | None:
    """What two tokenizers do differently, in words; None where they give every text of a battery the same ids."""
    if text := _encoded_differently(first, second) or _encoded_differently(first, second, add_special_tokens=True):
        return f"{_shorten(text)!r} is encoded differently"
    ours, theirs = first.get_vocab(), second.get_vocab()
    differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    return f"token {differing[0]!r} has another id" if differing else None


def _encoded_differently(first: Any, second: Any, *, add_special_tokens: bool = False) -> str | None:
    """The first text of the battery that has other ids."""
    options = {"add_special_tokens": add_special_tokens}
    return next((text for text in _BATTERY if first.encode(text, **options) != second.encode(text, **options)), None)


def mask_token_id(tokenizer: Any, setting: str) -> int:
    """The id put at masked positions: that of token `setting`, or with 'auto' of mask, else pad, unk, or a reserved token.

    Never the end of sequence: a model reads that as the end of the SQL, and what is behind it as another text.
    """
    if setting == "auto":
        return _automatic_mask(tokenizer)
    vocab = tokenizer.get_vocab()
    if setting in vocab:
        return int(vocab[setting])
    marked = special_ids(tokenizer)
    special = sorted(token for token, index in vocab.items() if index in marked)
    close = difflib.get_close_matches(setting, special, n=3, cutoff=0.5)
    close += [token for token in difflib.get_close_matches(setting, vocab, n=3, cutoff=0.8) if token not in close]
    alternatives = "did you mean " + " or ".join(close) + "?" if close else "special tokens here: " + ", ".join(special[:12])
    raise KidpipeError(f"the tokenizer has no token {setting!r}", where="predict.mask_token", fix=alternatives)


def _automatic_mask(tokenizer: Any) -> int:
    named = (getattr(tokenizer, name) for name in ("mask_token_id", "pad_token_id", "unk_token_id"))
    for index in named:
        if index is not None and index != tokenizer.eos_token_id:
            return int(index)
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    spare = {
        int(i): str(token.content) for i, token in tokenizer.added_tokens_decoder.items() if token.special and i not in taken
    }
    for word in _SPARE:
        if found := [index for index, content in sorted(spare.items()) if word in content.lower()]:
            return found[0]
    ordinary = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i not in special_ids(tokenizer))
    raise KidpipeError(
        "the tokenizer has no mask, pad or unk token that is not the end of sequence too",
        where="predict.mask_token = 'auto'",
        fix="name a token in predict.mask_token that your SQL does not use"
        + (f", such as {ordinary[-1][1]!r}, the last of the vocabulary" if ordinary else ""),
    )


def is_mask_of_old(tokenizer: Any) -> bool:
    """Whether 'auto' gave this mask token in kidpipe 0.1.0 too, which took the end of sequence where pad or unk were that."""
    for name in ("mask_token_id", "pad_token_id", "unk_token_id", "eos_token_id"):
        if getattr(tokenizer, name) is not None:
            return bool(getattr(tokenizer, name) != tokenizer.eos_token_id)
    return False


def usual_mask(tokenizer: Any, pad_id: int | None) -> int | None:
    """What 'auto' gives where tokenizer_config.json names the tokens that vocabulary and configuration make one expect.

    Of the vocabulary only ids count, not which are special: these can't be others while the weights are the same, of which each
    is a row.
    """
    vocab = tokenizer.get_vocab()
    if [vocab.get(token) for token in _MADE] == list(range(len(_MADE))):
        return _MADE.index("<mask>")
    named = next((int(vocab[token]) for token in _PADS if token in vocab), None)
    return named if pad_id is None else pad_id


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of tokens that stand for structure (eos, pad, chat roles), not for text."""
    added = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return {int(index) for index in chain(tokenizer.all_special_ids, added)}


def tokens_of(tokenizer: Any, mask_token: str) -> Tokens:
    """The ids of `tokenizer`, with the mask token that setting `mask_token` names."""
    end, mask = eos_id(tokenizer), mask_token_id(tokenizer, mask_token)
    known = set(tokenizer.get_vocab().values())
    # The number of tokens is not the highest id where ids are left out; those holes are no tokens either.
    size = max(known) + 1
    holes = set(range(size)) - known
    return Tokens(mask, end, size, frozenset(special_ids(tokenizer) | holes | {end, mask}))


def eos_id(tokenizer: Any) -> int:
    """The id of the token that ends a sequence."""
    if tokenizer.eos_token_id is None:
        raise KidpipeError("the tokenizer has no end-of-sequence token", fix="set eos_token in tokenizer_config.json")
    return int(tokenizer.eos_token_id)


def no_row(tokenizer: Any, index: int, rows: int, where: str) -> KidpipeError:
    """What to say of a token in use that was added to the tokenizer alone: the model's embeddings have only `rows`."""
    token = str(tokenizer.convert_ids_to_tokens(index))
    return KidpipeError(
        f"the token {token!r} has id {index}, and the model only rows for those below {rows}",
        where=where,
        fix=f"name a token of the model's own there ({token!r} was added to the tokenizer alone), or resize the embeddings",
    )


def _show(tokenizer: Any, ids: list[int]) -> str:
    """The first tokens of an encoding, as text, so that the difference can be seen."""
    tokens = tokenizer.convert_ids_to_tokens(ids[:12])
    return " ".join(map(str, tokens)) + (" ..." if len(ids) > 12 else "") + f"  ({len(ids)} tokens)"


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
