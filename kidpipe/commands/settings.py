"""`kidpipe init` and `kidpipe config`."""

from pathlib import Path
from typing import Any

from kidcore.config.config_load import sections, template
from kidcore.errors import KidpipeError
from kidpipe.commands.session import Session, text_table


def init(session: Session, path: Path, flags: dict[str, Any], *, force: bool) -> None:
    """Write a commented kidpipe.toml."""
    if path.exists() and not force:
        raise KidpipeError(f"{path} exists", fix="kidpipe init --force writes over it")
    path.write_text(template(flags), encoding="utf-8")
    session.console.print(f"wrote {path}: set teacher.model, train.student and data.path, then kidpipe build-imperfect")


def show_config(session: Session, *, as_json: bool) -> None:
    """Print every setting with its value, kind and origin."""
    rows = [
        (f"{section}.{field}", getattr(getattr(session.config, section), field), model.kind_of(field).value)
        for section, model in sections().items()
        for field in model.model_fields
    ]
    origin = session.loaded.origin
    if as_json:
        session.print_json({name: {"value": value, "kind": kind, "from": origin(name)} for name, value, kind in rows})
        return
    table = text_table("", {"setting": "left", "value": "left", "kind": "left", "from": "left"})
    for name, value, kind in rows:
        style = "bold" if origin(name) != "default" else ""
        table.add_row(name, str(value) if value != "" else '""', kind, origin(name), style=style)
    session.console.print(table)
