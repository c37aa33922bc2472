"""kidpipe.toml, the environment and flags in; one Config, and where each value came from, out."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kidcore.config.config import Config
from kidcore.config.settings import Section
from kidcore.errors import KidpipeError

FILE = "kidpipe.toml"
_PREFIX = "KIDPIPE_"


@dataclass(frozen=True)
class Loaded:
    """A configuration; `origins` maps `section.field` to where its value came from ("default" left out)."""

    config: Config
    origins: Mapping[str, str]

    def origin(self, name: str) -> str:
        return self.origins.get(name, "default")


def load_config(
    file: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] | None = None, *, use_file: bool = True
) -> Loaded:
    """Resolve the configuration: file < environment < flags.

    Args:
        file: a TOML file; None = `kidpipe.toml` in the working folder where there is one.
        flags: `section.field` to value; texts are read as TOML values where they are such.
        environ: KIDPIPE_SECTION__FIELD=value; None = os.environ.
        use_file: False leaves files out.

    Raises:
        KidpipeError: a missing file, bad TOML, an unknown key (the nearest real one is named), or a value out of range.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in (
        _from_file(file) if use_file else {},
        _from_environment(os.environ if environ is None else environ),
        _from_flags(flags),
    ):
        for name, (value, origin) in source.items():
            _require_known(name, origin)
            values[name], origins[name] = value, origin
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, field = name.partition(".")
        nested.setdefault(section, {})[field] = value
    try:
        return Loaded(Config.model_validate(nested), origins)
    except ValidationError as error:
        raise _explain(error, origins) from None


def sections() -> dict[str, type[Section]]:
    """The configuration's sections by name."""
    found: dict[str, type[Section]] = {}
    for name, field in Config.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Section)
        found[name] = field.annotation
    return found


def setting_names() -> list[str]:
    """Every `section.field`."""
    return [f"{section}.{field}" for section, model in sections().items() for field in model.model_fields]


_Source = dict[str, tuple[Any, str]]


def _from_file(file: Path | None) -> _Source:
    path = file or Path(FILE)
    if not path.is_file():
        if file is not None:
            raise KidpipeError(f"no such configuration file: {file}", fix="kidpipe init writes one")
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KidpipeError(f"not valid TOML: {error}", where=str(path), fix="mend that line") from None
    found: _Source = {}
    for section, values in document.items():
        if not isinstance(values, dict):
            found[section] = (values, str(path))
            continue
        for field, value in values.items():
            found[f"{section}.{field}"] = (value, str(path))
    return found


def _from_environment(environ: Mapping[str, str]) -> _Source:
    """KIDPIPE_MASK__RATIO=0.3 is mask.ratio; names without a double underscore are not settings."""
    found: _Source = {}
    for variable, text in sorted(environ.items()):
        section, separator, field = variable.removeprefix(_PREFIX).partition("__")
        if variable.startswith(_PREFIX) and separator:
            found[f"{section}.{field}".lower()] = (_parse(text), f"environment {variable}")
    return found


def _from_flags(flags: Mapping[str, Any]) -> _Source:
    return {name: (_parse(value) if isinstance(value, str) else value, "flag") for name, value in flags.items()}


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _require_known(name: str, origin: str) -> None:
    names = setting_names()
    if name in names:
        return
    section, _, field = name.partition(".")
    fields = [known for known in names if known.partition(".")[2] == field]
    near = (
        fields or difflib.get_close_matches(name, names, n=1, cutoff=0.5) or difflib.get_close_matches(section, sections(), n=1)
    )
    fix = f"did you mean {near[0]}?" if near else "kidpipe config lists every setting"
    raise KidpipeError(f"unknown setting: {name}", where=origin, fix=fix)


def _explain(error: ValidationError, origins: Mapping[str, str]) -> KidpipeError:
    first = error.errors()[0]
    name = ".".join(str(item) for item in first["loc"][:2])
    model: type[BaseModel] | None = sections().get(str(first["loc"][0]))
    description = model.model_fields[str(first["loc"][1])].description if model and len(first["loc"]) > 1 else ""
    given = first.get("input")
    return KidpipeError(
        f"{name} = {given!r}: {first['msg'][0].lower()}{first['msg'][1:]}",
        where=origins.get(name, ""),
        fix=f"{name} is: {description}",
    )


def template(flags: Mapping[str, Any]) -> str:
    """A kidpipe.toml with every setting, its description and its kind; `flags` replace defaults."""
    lines = [
        "# kidpipe.toml: every setting with its default.",
        "# identity: part of what is computed; a change reruns the stage and what follows it.",
        "# runtime:  how it is computed; a change reruns nothing.",
        "# input:    points at content; the content decides.",
    ]
    config = load_config(None, flags, {}, use_file=False).config
    for name, model in sections().items():
        lines += ["", f"[{name}]  # {Config.model_fields[name].description}"]
        section = getattr(config, name)
        for field, info in model.model_fields.items():
            text = f"{field} = {_toml(getattr(section, field))}"
            lines.append(f"{text:<28} # {model.kind_of(field).value}: {info.description}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
