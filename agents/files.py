"""What is written: files that appear whole or not at all, tables, and the versions behind them."""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["markdown_table", "replacing", "versions", "write_csv", "write_json", "write_text"]

# Line breaks inside strings are escaped, so only lists are found.
_NUMBERS = re.compile(r"\[\n\s*[-\d.eE+]+(,\n\s*[-\d.eE+]+)*\n\s*\]")

_LIBRARIES = (
    *("quartermaster", "numpy", "numba", "scipy", "cma", "torch", "stable-baselines3"),
    *("sb3-contrib", "gymnasium", "rliable"),
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, and put it in the place of ``path`` at the end.

    When the block raises, ``path`` is as it was, and nothing is left behind.

    Parameters
    ----------
    path : Path
        The file; its folder is made if absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: libraries choose the format by it.
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, lists of numbers on one line; what JSON does not have is refused."""
    text = json.dumps(content, indent=2, allow_nan=False)
    write_text(path, _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV; None becomes an empty cell."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(["" if cell is None else cell for cell in row] for row in rows)


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int | None = None
) -> str:
    """A table in Markdown, without a line break at its end.

    Parameters
    ----------
    head : sequence of str
    rows : iterable of sequences of str
    text_columns : int or None, optional
        The first so many columns are text; the others hold numbers, and stand to the right.
        None: all are text.
    """
    texts = len(head) if text_columns is None else text_columns
    rule = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join(_line(cells) for cells in (head, rule, *rows))


def versions() -> dict[str, str]:
    """Versions of Python, of this project and of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
