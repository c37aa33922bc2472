"""A table in; it on the screen out, or where its words would be cut in the width there is, a block a row."""

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table


def print_table(console: Console, table: Table) -> None:
    """Print it so that no word is cut: with its lines, else without, else a block a row."""
    least, most = zip(*(_measure(console, column) for column in table.columns), strict=True) if table.columns else ((), ())
    lines = 3 * len(least) + 1 if table.box else 2 * len(least)
    if sum(least) + lines > console.width:
        table.box, table.pad_edge, lines = None, False, 2 * len(least)
    if sum(least) + lines > console.width:
        _print_blocks(console, table)
        return
    # rich takes from the widest column first, to less than its longest word.
    for column, width in zip(table.columns, _share(least, most, console.width - lines), strict=True):
        column.width = width
    console.print(table)


def _measure(console: Console, column: Column) -> tuple[int, int]:
    """Its longest word and its longest cell."""
    wide = console.options.update(max_width=10_000)
    found = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
    return max(cell.minimum for cell in found), max(cell.maximum for cell in found)


def _share(least: Sequence[int], most: Sequence[int], space: int) -> list[int]:
    """What each column gets: its longest word at least, more in turns while there is any left."""
    widths = list(least)
    left = space - sum(least)
    while left > 0 and widths != list(most):
        for place, width in enumerate(widths):
            if left > 0 and width < most[place]:
                widths[place], left = width + 1, left - 1
    return widths


def _print_blocks(console: Console, table: Table) -> None:
    if table.title:
        console.print(table.title)
    for number, row in enumerate(zip(*(column.cells for column in table.columns), strict=True)):
        if number:
            console.print()
        block = Table(box=None, pad_edge=False, show_header=False)
        block.add_column(no_wrap=True)
        block.add_column(overflow="fold")
        for column, cell in zip(table.columns, row, strict=True):
            block.add_row(column.header, cell)
        console.print(block)
    if table.caption:
        console.print(table.caption)
