"""A model folder in; its tokenizer, loaded when it is first asked for, and what is remembered of it by its files, out.

Loading a tokenizer takes seconds, most of them the import of transformers; a plan needs a hash or two of it.
"""

import json
from collections.abc import Callable
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from kidcore.config.digests import FileDigests
from kidcore.config.settings import canonical_json, fingerprint
from kidcore.models.tokenizers import load_tokenizer

_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")
"""Of files that a tokenizer may be made of. The model's configuration is among them: some tokenizers look there."""


class TokenizerFiles:
    """The tokenizer of a model folder; `digests` remembers what was found out about it."""

    def __init__(self, folder: Path, digests: FileDigests) -> None:
        self.folder = folder
        self._digests = digests

    @cached_property
    def tokenizer(self) -> Any:
        """Loaded. Raises KidpipeError where that can't be done."""
        return load_tokenizer(self.folder)

    @cached_property
    def state(self) -> str:
        """A hash of the files, and of the libraries that make a tokenizer of them."""
        files = sorted(path for path in self.folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
        named = [[path.relative_to(self.folder).as_posix(), self._digests.digest(path)] for path in files]
        return fingerprint([named, [metadata.version(name) for name in ("transformers", "tokenizers")]])

    def remembered(self, name: str, find: Callable[[Any], Any]) -> Any:
        """What `find` gives for the tokenizer, as JSON can say it; found once for these files. `name` tells it from others."""
        fact = f"{name} of tokenizer {self.state}"
        known = self._digests.recall(fact)
        if known is None:
            known = canonical_json(find(self.tokenizer))
            self._digests.know(fact, known)
            self._digests.save()
        return json.loads(known)
