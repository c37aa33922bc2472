"""What an example says in, a name that stays with it out: `train:` and twelve letters.

The letters are consonants only, so that no such name is taken for a number (`train:17` is the place of an example in its
file) or for a word that a data set uses as an id of its own.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from kidcore.config.settings import fingerprint

# 48 bits: among a million examples the chance that any two share a name is 1 in 560, and an ordinal would part those, too.
_LENGTH = 12
_LETTERS = "bcdfghjklmnpqrst"
_FROM_HEX = str.maketrans("0123456789abcdef", _LETTERS)
_NAMED = re.compile(rf"[a-z_]+:[{_LETTERS}]{{{_LENGTH}}}")


def content_ids(prefix: str, contents: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """One name for each content (database, question, SQL), in order; the n-th of equal ones is always named alike."""
    seen: Counter[str] = Counter()
    for content in contents:
        name = _name(content, 0)
        ordinal, seen[name] = seen[name], seen[name] + 1
        yield f"{prefix}:{_name(content, ordinal) if ordinal else name}"


def is_content_id(example_id: str) -> bool:
    """Whether a name was made by `content_ids`, and is not an id that the data set brought or a place in a file."""
    return _NAMED.fullmatch(example_id) is not None


def places(example_ids: Iterable[str]) -> list[str]:
    """What people call examples, given in the order of their file: `train:17`; ids of the data set's own stay as they are."""
    counts: Counter[str] = Counter()
    shown = []
    for example_id in example_ids:
        prefix = example_id.partition(":")[0]
        shown.append(f"{prefix}:{counts[prefix]}" if is_content_id(example_id) else example_id)
        counts[prefix] += 1
    return shown


def _name(content: tuple[str, ...], ordinal: int) -> str:
    return fingerprint([*content, ordinal], _LENGTH).translate(_FROM_HEX)
