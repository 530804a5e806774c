"""Text of trace files, compressed or not, and typed columns of CSV text.

A failure names the file, the line, the column and the remedy. Every reader of tables reads by this.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import TraceError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "EMPTY",
    "Kind",
    "csv_cell",
    "csv_line",
    "csv_lines",
    "header",
    "plain_or_packed",
    "read_columns",
    "read_text",
    "require_columns",
]


EMPTY = (
    "",
    "nan",
    "NaN",
    "NAN",
    "-nan",
    "-NaN",
    "null",
    "Null",
    "NULL",
    "None",
    "none",
    "NaT",
    "NA",
    "N/A",
    "n/a",
    "<NA>",
    "#N/A",
)
"""What stands in cells of which nothing is known, by the programs that write tables."""


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
        of a column other than text is one of :data:`EMPTY`. Every number is finite.

    Raises
    ------
    TraceError
        Naming the line and column of a cell that is not what its column holds.
    """
    import pyarrow as pa

    if _HEXADECIMAL.search(text):  # Arrow takes 0x10 for 16
        _diagnose(path, text, kinds, first_line)
    try:
        table = _convert(text, kinds)
    except pa.ArrowInvalid as error:
        _diagnose(path, text, kinds, first_line)
        try:
            table = _convert_leniently(text, kinds)
        except pa.ArrowInvalid:
            problem = str(error).splitlines()[0]
            raise TraceError(str(path), problem, "repair the table", first_line) from None
    _refuse_infinite(path, text, table, kinds, first_line)
    return table


def _convert_leniently(text: str, kinds: Mapping[str, Kind]) -> pa.Table:
    """The same, for cells that are well and that Arrow does not take.

    Programs that know no empty integers write 8.0 for 8 where a column has empty cells; times may
    have a fraction of a second, which is cut off, or a zone, and are then those of UTC.
    """
    import pyarrow as pa

    table = _convert(text, kinds, pa.string(), pa.string())
    for at, (name, kind) in enumerate(kinds.items()):
        if kind is Kind.INTEGER:
            integers = [_to_integer(cell) for cell in table[name].to_pylist()]
            table = table.set_column(at, name, pa.array(integers, pa.int64()))
        elif kind is Kind.TIME:
            times = [_to_time(cell) for cell in table[name].to_pylist()]
            table = table.set_column(at, name, pa.array(times, pa.timestamp("s")))
    return table


def _convert(
    text: str,
    kinds: Mapping[str, Kind],
    integer: pa.DataType | None = None,
    time: pa.DataType | None = None,
) -> pa.Table:
    """Read CSV text; integers and times are stored as types of choice."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    arrow = {
        Kind.INTEGER: integer or pa.int64(),
        Kind.NUMBER: pa.float64(),
        Kind.TEXT: pa.string(),
        Kind.TIME: time or pa.timestamp("s"),
    }
    options = arrow_csv.ConvertOptions(
        column_types={name: arrow[kind] for name, kind in kinds.items()},
        include_columns=list(kinds),
        null_values=list(EMPTY),
    )
    return arrow_csv.read_csv(io.BytesIO(text.encode()), convert_options=options)


def _refuse_infinite(
    path: Path, text: str, table: pa.Table, kinds: Mapping[str, Kind], first_line: int
) -> None:
    """Raise for the first number that is none."""
    import pyarrow.compute as pc

    for name, kind in kinds.items():
        if kind is not Kind.NUMBER:
            continue
        fine = pc.fill_null(pc.is_finite(table[name]), fill_value=True)
        if not pc.all(fine, min_count=0).as_py():
            row = fine.index(False).as_py()
            problem = f"column '{name}' is {table[name][row].as_py()}, not {kind.value}"
            line = csv_line(text, row, first_line)
            raise TraceError(str(path), problem, "correct the cell", line)


def csv_cell(text: str, row: int, name: str) -> str:
    """What stands in a cell, for messages: its text, or ``empty``.

    Parameters
    ----------
    text : str
        CSV text from its header line on.
    row : int
        Zero-based row below the header.
    name : str
        The column.

    Returns
    -------
    str
    """
    for number, cells in enumerate(csv.DictReader(io.StringIO(text))):
        if number == row:
            return cells[name] or "empty"
    return "empty"


def csv_lines(text: str, first_line: int = 1) -> list[int]:
    """One-based lines in the file of the rows of a table (see :func:`csv_line`).

    Parameters
    ----------
    text : str
        CSV text from its header line on.
    first_line : int, optional
        One-based line of the header in the file.

    Returns
    -------
    list of int
    """
    full = [number + first_line for number, line in enumerate(text.splitlines()) if line]
    return full[1:]


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
    return csv_lines(text, first_line)[row]


_HEXADECIMAL = re.compile(r'(?:^|[,"])\s*[+-]?0[xX]', re.MULTILINE)


def _is_plain(cell: str) -> bool:
    """Whether other programs could read a number as Python does: not 1_000, nor other digits."""
    return cell.isascii() and "_" not in cell


def _is_integer(cell: str) -> bool:
    try:
        return _is_plain(cell) and -(1 << 63) <= int(cell) < 1 << 63
    except ValueError:
        return _is_number(cell) and float(cell).is_integer() and abs(float(cell)) <= _EXACT


def _to_integer(cell: str | None) -> int | None:
    """The integer of a cell that passed its test; None of an empty one."""
    if cell is None or cell in EMPTY:
        return None
    try:
        return int(cell)
    except ValueError:
        return int(float(cell))


_EXACT = 1 << 53  # beyond, a float does not hold every integer


def _is_number(cell: str) -> bool:
    try:
        return _is_plain(cell) and math.isfinite(float(cell))
    except ValueError:
        return False


def _to_time(cell: str | None) -> datetime | None:
    """The time of a cell that passed its test, in UTC, its zone dropped; None of an empty one."""
    if cell is None or cell in EMPTY:
        return None
    moment = datetime.fromisoformat(cell)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.replace(microsecond=0)


def _is_time(cell: str) -> bool:
    try:
        _to_time(cell)
    except (ValueError, OverflowError):
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
            if cell not in EMPTY and not _TESTS[kind](cell):
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
