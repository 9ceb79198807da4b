"""What the `cache` commands print for people: tables, sizes, sentences."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text


def table(*headings: str, right: tuple[int, ...] = ()) -> Table:
    """A table without lines.

    Args:
        headings: Of its columns.
        right: Columns that hold numbers.
    """
    made = Table(box=None, pad_edge=False, header_style="dim")
    for place, heading in enumerate(headings):
        made.add_column(heading, justify="right" if place in right else "left")
    return made


def size(count: int) -> str:
    """Bytes, as people say them."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def show(what: str | Table) -> None:
    """Print a sentence or a table on standard output."""
    console = Console()
    if isinstance(what, str):
        console.print(Text(what), soft_wrap=True)
    else:
        # Nothing is cut off where nobody looks at columns.
        console.print(what, soft_wrap=not console.is_terminal)
