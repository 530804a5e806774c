"""How things look: tables, times and amounts for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["duration", "make_table", "moment", "plain", "print_table", "since"]


_WIDE = 240  # columns where nobody looks: nothing is cut off on its way to a file or a pipe


_COLOURS = {
    "running": "green",
    "up": "green",
    "completed": "blue",
    "failed": "red",
    "down": "red",
    "preempted": "yellow",
    "draining": "yellow",
    "pending": "yellow",
}


def duration(ms: float | None) -> str:
    """A time span: ``3m 20s``, its two largest units."""
    if ms is None:
        return "-"
    left = int(abs(ms) / 1000)
    if left == 0:
        return f"{int(abs(ms))}ms" if ms else "0s"
    parts = list[str]()
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0"))


def since(ms: int | None, now_ms: float | None = None) -> str:
    """How long ago a moment was, or in how long it will be; ms since the epoch."""
    if ms is None:
        return "-"
    now = 1000 * time.time() if now_ms is None else now_ms
    return f"in {duration(ms - now)}" if ms > now else f"{duration(now - ms)} ago"


def moment(ms: int | None) -> str:
    """A moment on this machine's clock; ms since the epoch."""
    if ms is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def plain(value: object) -> str:
    """A value in a cell."""
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(plain(each) for each in value)
    first, *more = _printable(str(value).rstrip("\n")).split("\n")
    return f"{first} ..." if more else first


def _printable(text: str) -> str:
    """Text without control characters: what a job says of itself does not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else _STEERS for c in text)


_STEERS = "\N{REPLACEMENT CHARACTER}"


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None
) -> Table:
    """A table of texts and numbers; numbers stand at the right.

    On a terminal, which is narrow, columns that say nothing are left out.
    """
    lines = [list(row) for row in rows]
    if sys.stdout.isatty():
        says = [any(plain(row[k]) != "-" for row in lines) for k in range(len(columns))]
        columns = list(compress(columns, says))
        lines = [list(compress(row, says)) for row in lines]
    made = Table(box=None, title=title, title_justify="left", header_style="bold", pad_edge=False)
    for k, name in enumerate(columns):
        numbers = bool(lines) and all(isinstance(row[k], int | float | None) for row in lines)
        long = name in ("REASON", "WHAT", "GOT")
        made.add_column(name, justify="right" if numbers else "left", no_wrap=not long)
    for row in lines:
        texts = [plain(value) for value in row]
        made.add_row(*(Text(text, style=_COLOURS.get(text, "")) for text in texts))
    return made


def console() -> Console:
    """Where tables go; a pipe gets wide ones without colours."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def print_table(made: Table) -> None:
    """Print a table; blanks at the ends of lines are left out."""
    if sys.stdout.isatty():
        console().print(made)
        return
    page = console()
    with page.capture() as captured:
        page.print(made)
    sys.stdout.write("".join(f"{row.rstrip()}\n" for row in captured.get().splitlines()))


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print what is known of one thing, a line for each; what is not known is left out."""
    known = [(name, value) for name, value in pairs if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        whole = isinstance(value, str)  # all its lines, where a cell of a table has the first one
        text = _printable(value.rstrip("\n")) if whole else plain(value)
        sys.stdout.write(f"{name:<{width}}  " + text.replace("\n", f"\n{'':<{width}}  ") + "\n")
