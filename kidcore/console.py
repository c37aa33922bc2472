"""Where to write and how wide in; a console that shows every text as it is out."""

from typing import TYPE_CHECKING, Any

# rich takes a tenth of a second to load: only what prints for people loads it.
if TYPE_CHECKING:
    from rich.console import Console


def open_console(**options: Any) -> "Console":
    """The one place that opens consoles; `options` are rich's own, such as `stderr`, `width` and `quiet`.

    Names, paths, settings and SQL are people's own: `[eu]` and `:smile:` in them are no orders to rich, be they printed, in a
    table's cell or in its title. What wants a style is a `Text`, or is printed with `style=`.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **options)
