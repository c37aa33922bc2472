"""What an example says in, a name that stays with it out: `train:` and twelve letters.

The letters are consonants only, so that no such name is taken for a number (`train:17` is the place of an example in its
file) or for a word that a data set uses as an id of its own.
"""

import re
from collections import Counter
from collections.abc import Iterable

from kidcore.config.settings import fingerprint

# 48 bits: among a million examples the chance that any two share a name is 1 in 560, and an ordinal would part those, too.
_LENGTH = 12
_LETTERS = "bcdfghjklmnpqrst"
_FROM_HEX = str.maketrans("0123456789abcdef", _LETTERS)
_NAMED = re.compile(rf"[a-z_]+:[{_LETTERS}]{{{_LENGTH}}}")


class ContentNames:
    """Names for contents (database, question, SQL) in the order of their file: the n-th of equal ones is always named alike."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        # Names as numbers, and counts of the few that come again only: of a million examples this is what stays in memory.
        self._seen: set[int] = set()
        self._again: Counter[int] = Counter()

    def of(self, content: tuple[str, ...]) -> str:
        """The name of the content that comes next."""
        digits = fingerprint([*content, 0], _LENGTH)
        number = int(digits, 16)
        if number in self._seen:
            self._again[number] += 1
            digits = fingerprint([*content, self._again[number]], _LENGTH)
        self._seen.add(number)
        return f"{self._prefix}:{digits.translate(_FROM_HEX)}"


def is_content_id(example_id: str) -> bool:
    """Whether a name was made by ContentNames, and is not an id that the data set brought or a place in a file."""
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
