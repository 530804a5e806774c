"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["replacing", "write_json", "write_text"]

# Line breaks inside strings are escaped, so only lists are found.
_NUMBERS = re.compile(r"\[\n\s*[-\d.eE+]+(,\n\s*[-\d.eE+]+)*\n\s*\]")


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


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
