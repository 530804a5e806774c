"""Text of trace files, compressed or not, and typed columns of CSV text.

A failure names the file, the line, the column and the remedy. Every reader of tables reads by this.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import TraceError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Kind",
    "csv_line",
    "header",
    "plain_or_packed",
    "read_columns",
    "read_text",
    "require_columns",
]


class Kind(Enum):
    """What the cells of a column hold; the value says it for error messages."""

    INTEGER = "a 64-bit integer"
    NUMBER = "a finite number"
    TEXT = "text"
    TIME = "a time like 2017-10-01 12:30:00"


def header(text: str) -> list[str]:
    """Names in the first line of CSV text; empty for empty text."""
    return next(csv.reader(io.StringIO(text)), [])


def require_columns(path: Path, names: list[str], wanted: Mapping[str, Kind], line: int) -> None:
    """Raise when a wanted column is missing or appears twice.

    Parameters
    ----------
    path : Path
        For the message.
    names : list of str
        The header.
    wanted : mapping of str to Kind
        Columns that must be there.
    line : int
        One-based line of the header.
    """
    for name, kind in wanted.items():
        if name not in names:
            problem = f"column '{name}' is missing"
            raise TraceError(str(path), problem, f"add it; it holds {kind.value}", line)
        if names.count(name) > 1:
            raise TraceError(str(path), f"column '{name}' appears twice", "remove one", line)


def read_columns(
    path: Path, text: str, kinds: Mapping[str, Kind], *, first_line: int = 1
) -> pa.Table:
    """Read the named columns of CSV text.

    Parameters
    ----------
    path : Path
        For error messages.
    text : str
        The text, from its header line on. Other columns are ignored.
    kinds : mapping of str to Kind
        Columns wanted; they must be in the header.
    first_line : int, optional
        One-based line of the header in the file.

    Returns
    -------
    pyarrow.Table
        Columns in the order of `kinds`: int64, float64, string or timestamp[s]; null where a cell
        of a column other than text is empty.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    arrow = {
        Kind.INTEGER: pa.int64(),
        Kind.NUMBER: pa.float64(),
        Kind.TEXT: pa.string(),
        Kind.TIME: pa.timestamp("s"),
    }
    options = arrow_csv.ConvertOptions(
        column_types={name: arrow[kind] for name, kind in kinds.items()},
        include_columns=list(kinds),
        null_values=[""],
    )
    try:
        return arrow_csv.read_csv(io.BytesIO(text.encode()), convert_options=options)
    except pa.ArrowInvalid as error:
        _diagnose(path, text, kinds, first_line)
        problem = str(error).splitlines()[0]
        raise TraceError(str(path), problem, "repair the table", first_line) from None


def csv_line(text: str, row: int, first_line: int = 1) -> int:
    """One-based line in the file of a zero-based row of the table (blank lines do not count).

    Parameters
    ----------
    text : str
        CSV text from its header line on.
    row : int
        Zero-based row below the header.
    first_line : int, optional
        One-based line of the header in the file.

    Returns
    -------
    int
    """
    full = [number for number, line in enumerate(text.splitlines()) if line]
    return full[row + 1] + first_line


def _is_integer(cell: str) -> bool:
    try:
        return -(1 << 63) <= int(cell) < 1 << 63
    except ValueError:
        return False


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _is_time(cell: str) -> bool:
    try:
        datetime.fromisoformat(cell)
    except ValueError:
        return False
    return True


_TESTS: Mapping[Kind, Callable[[str], bool]] = {
    Kind.INTEGER: _is_integer,
    Kind.NUMBER: _is_number,
    Kind.TIME: _is_time,
    Kind.TEXT: lambda cell: True,
}


def _diagnose(path: Path, text: str, kinds: Mapping[str, Kind], first_line: int) -> None:
    """Raise for the first cell that is not what its column holds."""
    reader = csv.reader(io.StringIO(text))
    names = next(reader, [])
    for row in reader:
        line = reader.line_num + first_line - 1
        if not row:
            continue
        if len(row) != len(names):
            problem = f"has {len(row)} cells instead of {len(names)}"
            raise TraceError(str(path), problem, "repair or remove the line", line)
        for name, cell in zip(names, row, strict=True):
            kind = kinds.get(name, Kind.TEXT)
            if cell and not _TESTS[kind](cell):
                problem = f"column '{name}' is {cell!r}, not {kind.value}"
                raise TraceError(str(path), problem, "correct the cell", line)


def plain_or_packed(path: Path) -> Path:
    """The file, or its compressed form where only that is there."""
    packed = path.with_name(path.name + ".gz")
    return packed if packed.exists() and not path.exists() else path


def read_text(path: Path) -> str:
    """Read a text file; a name that ends in ``.gz`` is decompressed.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        Its text.

    Raises
    ------
    TraceError
        When it is absent, cannot be read, is not valid gzip or is not text.
    """
    name = str(path)
    data = b""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise TraceError(name, "no such file", "check the path of the trace") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = f"is not text (byte {error.start})"
        raise TraceError(name, problem, "give a UTF-8 text file", line) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problem = f"cannot be decompressed ({error})"
        raise TraceError(name, problem, "the file is damaged or not gzip: fetch it again") from None
    except OSError as error:
        raise TraceError(name, f"cannot be read ({error})", "check the path and rights") from None
