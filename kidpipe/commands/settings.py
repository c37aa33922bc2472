"""`kidpipe config`: every setting, its value and where it comes from."""

from kidcore.config.config_load import sections
from kidpipe.commands.session import Session, text_table


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
    table.columns[0].no_wrap = True  # a name cut in two is not to be searched for or copied
    for column in table.columns[1:]:
        column.overflow = "fold"  # a long path goes on in the next line
    for name, value, kind in rows:
        style = "bold" if origin(name) != "default" else ""
        table.add_row(name, str(value) if value != "" else '""', kind, origin(name), style=style)
    session.console.print(table)
