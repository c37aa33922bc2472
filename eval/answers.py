"""A model's answers to prompts, kept in a file as they come: what it was asked before is not asked again."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from kidcore.advance import Advance, unheard
from kidcore.atomic import append_whole, naming_the_disk, write_text
from kidcore.models.backends.base import Backend, Sampling

ANSWERS_FILE = "answers.jsonl"

# Raised where the same model would answer the same prompt otherwise by a change of ours: older answers are asked again.
_VERSION = 1


class KeptAnswers:
    """An engine with a memory; it starts when it is first asked something new.

    The first line of the file says which model the answers are of; each later one has what one prompt was answered, under a
    digest of its tokens and of all else that `generate` was given. Lines that a dead writer left unfinished are passed over.

    Args:
        path: the file. That of another model is begun anew when the first answer is there.
        made_by: what decides the answers beside what `generate` is given: the model's identity, the precision.
        open_engine: starts the engine.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any], open_engine: Callable[[], Backend]) -> None:
        self._path, self._open = path, open_engine
        self._engine: Backend | None = None
        self._head, self._known, self._is_torn = _read(path)
        decided_by = {"version": _VERSION, "made_by": dict(made_by)}
        self._is_begun = {name: self._head.get(name) for name in decided_by} == decided_by
        if not self._is_begun:
            self._head, self._known, self._is_torn = decided_by, {}, False
        self.reused = 0
        """Answers that were taken from the file."""

    @property
    def engine(self) -> str:
        """What computed the answers of the file, to read."""
        return str(self._head.get("engine", ""))

    @property
    def max_length(self) -> int:
        """The engine's, or as it was when the file was begun."""
        return int(self._head["max_length"]) if self._is_begun else self._opened().max_length

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling | None = None,
        advance: Advance = unheard,
    ) -> Iterator[list[int]]:
        """As Answering's. Equal prompts are asked once. Raises KidpipeError where the file can't be written."""
        number = sampling.number if sampling else 1
        keys = [_key(prompt, max_new_tokens, stop_ids, sampling) for prompt in prompts]
        asked = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._known}
        self.reused += number * sum(key in self._known for key in keys)
        advance(number * (len(prompts) - len(asked)))
        if not asked:
            yield from (answer for key in keys for answer in self._known[key])
            return
        found = self._opened().generate(list(asked.values()), max_new_tokens, stop_ids, sampling, advance)
        with self._opened_file() as file:
            for key in keys:
                if key not in self._known:
                    self._known[key] = [next(found) for _ in range(number)]
                    line = {"prompt": key, "answers": self._known[key]}
                    with naming_the_disk(self._path.parent):
                        # Whole lines, whoever else is at this evaluation.
                        append_whole(file, json.dumps(line, separators=(",", ":")).encode() + b"\n")
                yield from self._known[key]

    def close(self) -> None:
        """Free the engine's memory."""
        if self._engine is not None:
            self._engine.close()

    def _opened(self) -> Backend:
        if self._engine is None:
            self._engine = self._open()
        return self._engine

    def _opened_file(self) -> FileIO:
        """The file of this model's answers, at the end of a whole line."""
        with naming_the_disk(self._path.parent):
            if not self._is_begun:
                engine = self._opened()
                self._head |= {"max_length": engine.max_length, "engine": str(engine.facts)}
                write_text(self._path, json.dumps(self._head) + "\n")
                self._is_begun = True
            file = self._path.open("ab", buffering=0)
            if self._is_torn:
                append_whole(file, b"\n")
                self._is_torn = False
            return file


def _key(prompt: Sequence[int], max_new_tokens: int, stop_ids: Sequence[int], sampling: Sampling | None) -> str:
    drawn = [sampling.temperature, sampling.seed, sampling.number] if sampling else []
    how = json.dumps([max_new_tokens, sorted(stop_ids), drawn]).encode()
    return hashlib.sha256(how + np.asarray(prompt, dtype=np.int32).tobytes()).hexdigest()[:32]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, list[list[int]]], bool]:
    """The first line, the answers by key, and whether the last line is unfinished; nothing where there is no such file."""
    try:
        content = path.read_bytes()
    except OSError:
        return {}, {}, False
    head, *lines = [_object(line) for line in content.split(b"\n")]
    whole = [line for line in lines if isinstance(line.get("prompt"), str) and isinstance(line.get("answers"), list)]
    known = {line["prompt"]: line["answers"] for line in whole}
    return (head if "max_length" in head else {}), known, not content.endswith(b"\n")


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
