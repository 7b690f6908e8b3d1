"""One table of text, for the terminal and for Markdown."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Literal

NUMBER = re.compile(r"[\d,.]*( m| %)?")
PIPE_WIDTH = 200  # columns, where no terminal says how many


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, whole: Collection[str] = ()) -> None:
    """Show it on the terminal.

    Where it is narrow, cells break over several lines and nothing is cut off; the columns named in `whole`
    stay on one line, because they are there to be copied.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(header):
        numeric = all(NUMBER.fullmatch(row[number]) for row in rows)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name in whole)
    for row in rows:
        table.add_row(*row)
    console = Console()
    (console if console.is_terminal else Console(width=PIPE_WIDTH)).print(table)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as Markdown, with a line break at its end."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
