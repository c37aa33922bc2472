"""Command line, configuration and stage table in; docs/reference/cli.md, settings.md, columns.md out. Run it after changing one.

python docs/make_reference.py
"""

from pathlib import Path
from typing import Any

import typer

from kidcore.config.config_load import sections
from kidcore.store.column_descriptions import COLUMNS
from kidcore.store.stages import STAGE_TABLE
from kidpipe.cli import app

FOLDER = Path(__file__).parent / "reference"
_MADE = "<!-- Written by docs/make_reference.py: change the code, then run it. -->"


def pages() -> dict[str, str]:
    """The text of each page by file name."""
    return {"cli.md": _commands(), "settings.md": _settings(), "columns.md": _columns()}


def _commands() -> str:
    lines = [_MADE, "", "# Commands", "", "What holds for all of them is in [cli.md](../cli.md).", ""]
    group: Any = typer.main.get_command(app)
    for name in sorted(group.commands):
        command = group.commands[name]
        about, _, examples = (command.help or "").partition("Example:")
        lines += [f"## kidpipe {name}", "", *(" ".join(text.split()) + "\n" for text in about.strip().split("\n\n"))]
        shown = [" ".join(text.split()) for text in examples.split("Example:") if text.strip()]
        if shown:
            lines += ["```bash", *shown, "```", ""]
        lines += ["| | |", "|---|---|", *(_option(option) for option in command.params if option.name != "help"), ""]
    return "\n".join(lines)


def _option(option: Any) -> str:
    is_argument = option.param_type_name == "argument"
    names = option.name.upper() if is_argument else ", ".join([*option.opts, *option.secondary_opts])
    default = option.default
    is_worth_saying = default not in (None, "", False, []) and not callable(default)
    return _row(names, (getattr(option, "help", "") or "") + (f" Default `{default}`." if is_worth_saying else ""))


def _settings() -> str:
    lines = [_MADE, "", "# Settings", ""]
    lines += ["`identity` settings go into the keys of shards and runs: a change makes what depends on them anew."]
    lines += ["`runtime` settings never do; of what an `input` setting points at, the content counts.", ""]
    for section, model in sections().items():
        about = " ".join((model.__doc__ or "").split())
        lines += [f"## {section}", "", about, "", "| setting | default | kind | |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            lines.append(_row(f"{section}.{name}", f"`{field.default!r}`", model.kind_of(name).value, field.description or ""))
        lines.append("")
    return "\n".join(lines)


def _columns() -> str:
    lines = [_MADE, "", "# Columns", ""]
    lines += ["What the shards of each stage hold, and so the tables of `kidpipe query`: a row is a question, or a view of one."]
    lines += ["`[...]` is a list; positions are those of the SQL with its end of sequence; `?` may be null.", ""]
    for name, traits in STAGE_TABLE.items():
        lines += [f"## {name}", "", "| column | type | |", "|---|---|---|"]
        lines += [_row(column.split()[0], column.split()[1], COLUMNS[column.split()[0]]) for column in traits.columns] + [""]
    return "\n".join(lines)


def _row(first: str, *others: str) -> str:
    # A file's pattern (<db_id>.sqlite) is no tag; in code as it is, since no name or default has one.
    cells = [f"`{first}`", *others]
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
