"""kidpipe.toml, the environment and flags in; one Config, and where each value came from, out."""

import json
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from kidcore.config.config import PROMPT_TEMPLATES, RENAMED, Config
from kidcore.config.settings import Place, Section
from kidcore.errors import KidpipeError, nearest

FILE = "kidpipe.toml"
_PREFIX = "KIDPIPE_"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A configuration; `origins` maps `section.field` to where its value came from ("default" left out)."""

    config: Config
    origins: Mapping[str, str]
    file: Path | None = None
    """The settings file, where it was named and not found."""

    def origin(self, name: str) -> str:
        return self.origins.get(name, "default")


def load_config(
    file: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] | None = None, *, use_file: bool = True
) -> Loaded:
    """Resolve the configuration: file < environment < flags.

    Args:
        file: a TOML file; None = the `kidpipe.toml` of the working folder or the nearest folder above it, where there is one.
        flags: `section.field` to value; texts are read as TOML values, but for settings that are texts themselves.
        environ: KIDPIPE_SECTION__FIELD=value; None = os.environ.
        use_file: False leaves files out.

    Paths that the file names are relative to it, and so are the defaults of those that a found file leaves out; paths of flags
    and of the environment are relative to the working folder. Any may begin with `~`.

    Raises:
        KidpipeError: a missing file, bad TOML, an unknown key (the nearest real one is named), or a value out of range.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    path = (file or find_file()) if use_file else None
    for source in (
        _from_file(path) if path else {},
        _from_environment(os.environ if environ is None else environ),
        _from_flags(flags),
    ):
        for name, (value, origin) in _with_new_names(source).items():
            _require_known(name, origin)
            values[name], origins[name] = value, origin
    if path is not None:
        _anchor(values, origins, path, with_defaults=file is None)
    _from_home(values, origins)
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, field = name.partition(".")
        nested.setdefault(section, {})[field] = value
    try:
        return Loaded(Config.model_validate(nested), origins, file if use_file else None)
    except ValidationError as error:
        raise _explain(error, origins) from None


def find_file() -> Path | None:
    """The `kidpipe.toml` of the working folder, as a relative path, or of the nearest folder above it that has one."""
    if Path(FILE).is_file():
        return Path(FILE)
    return next((folder / FILE for folder in Path.cwd().parents if (folder / FILE).is_file()), None)


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


class _Number(float):
    """A TOML number with the text it was written as: `revision = 12e4567` names a commit."""

    text: str


def _number(text: str) -> _Number:
    number = _Number(text)
    number.text = text
    return number


def _from_file(path: Path) -> _Source:
    if not path.is_file():
        raise KidpipeError(f"no such configuration file: {path}", fix="kidpipe init writes one")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"), parse_float=_number)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = "mend that line; texts stand in quotes, with backslashes in single ones: method = 'kid'"
        raise KidpipeError(f"not valid TOML: {error}", where=_line_of(path, str(error)), fix=fix) from None
    found: _Source = {}
    for section, values in document.items():
        if not isinstance(values, dict):
            found[section] = (values, str(path))
            continue
        for field, value in values.items():
            found[f"{section}.{field}"] = (_as_written(f"{section}.{field}", value), str(path))
    return found


def _line_of(path: Path, fault: str) -> str:
    """The file with the line that the fault names."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = re.search(r"at line (\d+)", fault)
    number = int(found[1]) if found else 0
    return f"{path}, line {number}: {lines[number - 1].strip()}" if 0 < number <= len(lines) else str(path)


def _as_written(name: str, value: Any) -> Any:
    """A number of the file, as text where the setting is one: teachers' revisions are often all digits."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and _is_text(name):
        return value.text if isinstance(value, _Number) else str(value)
    return float(value) if isinstance(value, _Number) else value


def _from_environment(environ: Mapping[str, str]) -> _Source:
    """KIDPIPE_MASK__RATIO=0.3 is mask.ratio; names without a double underscore are not settings."""
    found: _Source = {}
    single = {f"{_PREFIX}{name.replace('.', '_')}".upper(): name for name in setting_names()}
    for variable, text in sorted(environ.items()):
        section, separator, field = variable.removeprefix(_PREFIX).partition("__")
        if variable.startswith(_PREFIX) and separator:
            name = f"{section}.{field}".lower()
            found[name] = (_parse(name, text), f"environment {variable}")
        elif variable in single:
            meant = _PREFIX + single[variable].replace(".", "__").upper()
            raise KidpipeError(f"{variable} names no setting", where="environment", fix=f"two underscores: {meant}={text}")
    return found


def _from_flags(flags: Mapping[str, Any]) -> _Source:
    return {name: (_parse(name, value) if isinstance(value, str) else value, "flag") for name, value in flags.items()}


def _parse(name: str, text: str) -> Any:
    """The TOML value that `text` is; itself where it is none, or where the setting is a text and no quotes stand around it."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, str) or not _is_text(name) else text


def _is_text(name: str) -> bool:
    """Whether a setting takes nothing but text."""
    section, _, field = RENAMED.get(name, name).partition(".")
    model = sections().get(section)
    info = model.model_fields.get(field) if model else None
    if info is None:
        return False
    choices = get_args(info.annotation)
    return info.annotation is str or (bool(choices) and all(isinstance(choice, str) for choice in choices))


def _with_new_names(source: _Source) -> _Source:
    """The source with settings that were renamed under their present names; a line says so."""
    found = dict(source)
    for old, new in RENAMED.items():
        if old not in source:
            continue
        value, origin = found.pop(old)
        if new in source:
            raise KidpipeError(f"{new} is given under its old name too, {old}", where=origin, fix=f"leave {old} out")
        _LOG.warning("%s is called %s now (%s)", old, new, origin)
        found[new] = (value, origin)
    return found


def _anchor(values: dict[str, Any], origins: Mapping[str, str], file: Path, *, with_defaults: bool) -> None:
    """Turn the file's relative paths into such as hold in the working folder."""
    for section, model in sections().items():
        for field, info in model.model_fields.items():
            name, kinds = f"{section}.{field}", info.metadata
            is_default = with_defaults and name not in values
            value = info.default if is_default else values.get(name)
            if not (isinstance(value, str) and value) or not (is_default or origins.get(name) == str(file)):
                continue
            place = file.parent / value
            is_named_here = Place.MODEL in kinds and (value.startswith(("./", "../")) or place.exists())
            is_template = Place.TEMPLATE in kinds and value not in PROMPT_TEMPLATES
            # A path from the home folder is whole already.
            if (Place.PATH in kinds or is_named_here or is_template) and not value.startswith("~"):
                values[name] = str(place)


def _from_home(values: dict[str, Any], origins: Mapping[str, str]) -> None:
    """Put the home folder in the place of `~`, in every setting that names something on disk."""
    for name, value in values.items():
        section, _, field = name.partition(".")
        is_place = any(isinstance(item, Place) for item in sections()[section].model_fields[field].metadata)
        if not (is_place and isinstance(value, str) and value.startswith("~")):
            continue
        try:
            values[name] = str(Path(value).expanduser())
        except RuntimeError:
            fix = "write the folder out; HOME may not be set, or there may be no such user"
            raise KidpipeError(f"{name} = {value}: no such home folder", where=origins[name], fix=fix) from None


def _require_known(name: str, origin: str) -> None:
    names = setting_names()
    if name in names:
        return
    section, _, field = name.partition(".")
    if name in sections():
        first = next(iter(sections()[name].model_fields))
        fix = f"in the file [{name}] with a setting a line, else --set {name}.{first}=VALUE"
        raise KidpipeError(f"{name} is a section, not a setting", where=origin, fix=fix)
    fields = sorted(known for known in names if known.partition(".")[2] == (field or name))
    near = " or ".join(fields) if fields else nearest(name.lower(), names) or nearest(section.lower(), sections(), 0.6)
    fix = f"did you mean {near}?" if near else "kidpipe config lists every setting"
    raise KidpipeError(f"unknown setting: {name}", where=origin, fix=fix)


def _explain(error: ValidationError, origins: Mapping[str, str]) -> KidpipeError:
    first, *others = error.errors()
    name = ".".join(str(item) for item in first["loc"][:2])
    model: type[BaseModel] | None = sections().get(str(first["loc"][0]))
    description = model.model_fields[str(first["loc"][1])].description if model and len(first["loc"]) > 1 else ""
    # One for each type that a value may have: what any of them wants.
    alike = [first, *(other for other in others if other["loc"][:2] == first["loc"][:2] and other["input"] == first["input"])]
    said = " or ".join(dict.fromkeys(_said(each["msg"]) for each in alike))
    return KidpipeError(f"{name} = {first['input']!r}: {said}", where=origins.get(name, ""), fix=f"{name} is: {description}")


def _said(message: str) -> str:
    said = message.removeprefix("Value error, ")
    return said[0].lower() + said[1:]


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
        # JSON's escapes are TOML's too, but for DEL, which only TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)
