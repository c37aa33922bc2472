"""The types of a setting (identity, runtime, input) and the canonical hash of the identity ones."""

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class SettingKind(Enum):
    """What a change of a setting touches."""

    IDENTITY = "identity"
    """Goes into the fingerprint: a change reruns the stage and what follows."""
    RUNTIME = "runtime"
    """Never goes into a fingerprint: a change reruns nothing."""
    INPUT = "input"
    """Points at content (data, weights): the content is hashed, the pointer is not."""


class Place(Enum):
    """What a text names on disk: in a configuration file it is relative to that file."""

    PATH = "path"
    MODEL = "model"
    """A local folder, or else a name on the Hugging Face Hub."""
    TEMPLATE = "template"
    """A folder of prompt templates, or else the name of a built-in one."""


class _Age(Enum):
    LATER = "later"


T = TypeVar("T")
Identity = Annotated[T, SettingKind.IDENTITY]
Runtime = Annotated[T, SettingKind.RUNTIME]
Input = Annotated[T, SettingKind.INPUT]
Later = Annotated[T, _Age.LATER]
"""An identity setting that manifests of 0.1.0 do not name: at its default today's leave it out too, so they stay the same."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ModelName = Annotated[str, Place.MODEL]


class Section(BaseModel):
    """A section of the configuration: frozen, unknown keys forbidden, each field of one Kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _require_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false for a number: they would be read as 1 and 0."""
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("input should not be true or false")
        return value

    @field_validator("*")
    @classmethod
    def _require_finite(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse inf and nan where they would go into a fingerprint. Runtime settings may be endless: a deadline, say."""
        if cls.kind_of(info.field_name or "") is SettingKind.IDENTITY and not _is_finite(value):
            raise ValueError("input should be finite: a large number stands for no limit")
        return value

    @classmethod
    def kind_of(cls, name: str) -> SettingKind:
        """The Kind of field `name`; a field without one is our own mistake."""
        kinds = [item for item in cls.model_fields[name].metadata if isinstance(item, SettingKind)]
        assert len(kinds) == 1, f"{cls.__name__}.{name} must be exactly one of Identity, Runtime, Input"
        return kinds[0]

    @classmethod
    def left_out(cls, name: str) -> Any:
        """The value of field `name` that identities leave out: its default, or what that was before it became `auto`."""
        field = cls.model_fields[name]
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        return extra.get("left_out", field.default)

    def identity(self) -> dict[str, Any]:
        """The identity settings that differ from their default.

        Defaults are left out so that a setting added later invalidates no shard made before it.
        """
        return {
            name: getattr(self, name)
            for name in type(self).model_fields
            if self.kind_of(name) is SettingKind.IDENTITY and getattr(self, name) != self.left_out(name)
        }

    def all_identity(self) -> dict[str, Any]:
        """Every identity setting with its value; a Later one only away from its default."""
        changed = self.identity()
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if self.kind_of(name) is SettingKind.IDENTITY and (name in changed or _Age.LATER not in field.metadata)
        }


def _takes_bool(annotation: Any) -> bool:
    return annotation is bool or any(map(_takes_bool, get_args(annotation)))


def _is_finite(value: Any) -> bool:
    """Whether every number in it is."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, float) or math.isfinite(value)


# Made once: json.dumps would make one for each of a million names.
_PLAIN = frozenset((str, int, bool, type(None)))
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces; raises TypeError for what has no canonical form."""
    is_plain = type(value) is list and _PLAIN.issuperset(map(type, value))
    return _CANONICAL.encode(value if is_plain else _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, str) or value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value!r} has no canonical form")
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("mapping keys must be text to have a canonical form")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical form")


def fingerprint(value: Any, length: int = 32) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()[:length]
