"""The canonical trace table as a file: CSV or Parquet.

A file written here also carries the trace's name, tenants and nodes: a CSV file in a first line
that starts with ``# quartermaster trace``, a Parquet file in its schema's metadata. A table
without them is read all the same. ``docs/trace-format.md`` is the documentation for users.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.columns import COLUMNS, Column, blank_requests, first_violation
from envs.workloads.csvfile import Kind, csv_line, header, read_columns
from envs.workloads.files import read_text
from envs.workloads.trace import Trace, trace_from_file, unplaceable
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.types import NodeSpec

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_table", "to_table", "write_table"]

_MARK = "# quartermaster trace "
_META_KEY = b"quartermaster.trace"
_DEFAULT_TENANT = "default"
_ENDINGS = (".csv", ".csv.gz", ".parquet")
_BY_NAME = {column.name: column for column in COLUMNS}
_NODE_FIELDS = tuple(field.name for field in fields(NodeSpec))


@dataclass(frozen=True)
class _Raw:
    """Contents of a file before they are checked against the columns."""

    values: Mapping[str, NDArray[np.int64]]  # [rows] each; integer columns that are present
    missing: Mapping[str, NDArray[np.bool_]]  # [rows] where a cell is empty
    tenants: list[str] | None  # [rows] the tenant column, "" where empty
    rows: int
    meta: Mapping[str, Any]


def to_table(trace: Trace) -> pd.DataFrame:
    """Convert a trace's jobs to the canonical trace table.

    Parameters
    ----------
    trace : Trace
        The trace.

    Returns
    -------
    pandas.DataFrame
        One row per job; integer columns, and the tenant's name.
    """
    import pandas as pd

    names = np.array(trace.tenants, dtype=object)
    columns: dict[str, Any] = {c.name: trace.requests[c.name] for c in COLUMNS}
    columns["tenant"] = names[trace.requests["tenant"]]
    return pd.DataFrame(columns)


def write_table(trace: Trace, path: Path) -> None:
    """Write a trace as a canonical table; the file appears whole or not at all.

    Parameters
    ----------
    trace : Trace
        The trace.
    path : Path
        Ends in ``.csv``, ``.csv.gz`` or ``.parquet``.

    Raises
    ------
    ConfigurationError
        When the ending is another one.
    """
    ending = _ending(path)
    if ending is None:
        raise ConfigurationError(f"{path}: unknown table format; use one of {list(_ENDINGS)}")
    data = _parquet_bytes(trace) if ending == ".parquet" else _csv_bytes(trace)
    if ending == ".csv.gz":
        data = gzip.compress(data, mtime=0)  # no time stamp: equal traces, equal bytes
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_table(path: Path) -> Trace:
    """Read a canonical table.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``, ``.csv.gz`` or ``.parquet``.

    Returns
    -------
    Trace
        Equal to the one that was written. Without metadata it is named after the file, its
        tenants are in the order of their appearance, and it has no nodes.

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    ending = _ending(path)
    if ending is None:
        remedy = f"give a file that ends in one of {list(_ENDINGS)}"
        raise TraceError(str(path), "unknown table format", remedy)
    raw = _read_parquet(path) if ending == ".parquet" else _read_csv(path)
    if raw.rows == 0:
        raise TraceError(str(path), "holds no jobs", "give a table with at least one row")
    requests = _fill(path, raw)
    tenants, indices = _index_tenants(raw)
    requests["tenant"] = indices
    name = str(raw.meta.get("name", path.name.removesuffix(ending)))
    nodes = _nodes(path, raw.meta)
    _check(path, requests, len(tenants), nodes)
    return trace_from_file(path, name, requests, tenants, nodes)


def _ending(path: Path) -> str | None:
    return next((ending for ending in _ENDINGS if path.name.endswith(ending)), None)


# --- writing -----------------------------------------------------------------------------------


def _meta_json(trace: Trace) -> str:
    rows = [[getattr(node, field) for field in _NODE_FIELDS] for node in trace.nodes]
    meta = {
        "version": 1,
        "name": trace.name,
        "tenants": list(trace.tenants),
        "nodes": {"fields": list(_NODE_FIELDS), "rows": rows},
    }
    return json.dumps(meta, separators=(",", ":"))


def _csv_bytes(trace: Trace) -> bytes:
    body = to_table(trace).to_csv(index=False, lineterminator="\n")
    return f"{_MARK}{_meta_json(trace)}\n{body}".encode()


def _parquet_bytes(trace: Trace) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(to_table(trace), preserve_index=False)
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_META_KEY: _meta_json(trace)}), stream)
    return stream.getvalue()


# --- reading -----------------------------------------------------------------------------------


def _read_csv(path: Path) -> _Raw:
    text, meta, first_line = _split(path, read_text(path))
    names = header(text)
    _check_names(path, names, first_line)
    kinds = {name: Kind.TEXT if name == "tenant" else Kind.INTEGER for name in names}
    return _from_arrow(path, read_columns(path, text, kinds, first_line=first_line), meta)


def _split(path: Path, text: str) -> tuple[str, Mapping[str, Any], int]:
    """Take the description off the front: the table's text, the description, the header's line."""
    if not text.startswith(_MARK):
        return text, {}, 1
    first, _, rest = text.partition("\n")
    return rest, _parse_meta(path, first.removeprefix(_MARK)), 2


def _read_parquet(path: Path) -> _Raw:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise TraceError(str(path), "no such file", "check the path of the trace") from None
    except (pa.ArrowInvalid, OSError) as error:
        problem = f"is not a readable Parquet file ({str(error).splitlines()[0]})"
        raise TraceError(str(path), problem, "write it again") from None
    text = (table.schema.metadata or {}).get(_META_KEY)
    meta = {} if text is None else _parse_meta(path, text.decode())
    _check_names(path, table.column_names, None)
    return _from_arrow(path, table, meta)


def _parse_meta(path: Path, text: str) -> Mapping[str, Any]:
    try:
        meta = json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"its description of the trace is damaged ({error})"
        raise TraceError(str(path), problem, "remove it or write the table again", 1) from None
    if not isinstance(meta, dict) or meta.get("version") != 1:
        problem = "its description of the trace has another version"
        raise TraceError(str(path), problem, "read it with the program that wrote it", 1)
    return meta


def _check_names(path: Path, names: Iterable[str], line: int | None) -> None:
    """Demand the required columns, no unknown ones, and none twice."""
    names = list(names)
    known = ", ".join(_BY_NAME)
    for name in names:
        if name not in _BY_NAME:
            remedy = f"remove or rename it; known columns are {known}"
            raise TraceError(str(path), f"unknown column '{name}'", remedy, line)
        if names.count(name) > 1:
            raise TraceError(str(path), f"column '{name}' appears twice", "remove one", line)
    for column in COLUMNS:
        if column.default is None and column.name not in names:
            problem = f"column '{column.name}' is missing"
            raise TraceError(str(path), problem, f"add it ({column.meaning}, {column.unit})", line)


def _from_arrow(path: Path, table: Any, meta: Mapping[str, Any]) -> _Raw:
    """Take the columns out of an Arrow table."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values: dict[str, NDArray[np.int64]] = {}
    missing: dict[str, NDArray[np.bool_]] = {}
    tenants: list[str] | None = None
    for name in table.column_names:
        column = table[name]
        try:
            if name == "tenant":
                tenants = pc.fill_null(column.cast(pa.string()), "").to_pylist()
                continue
            column = column.cast(pa.int64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            problem = f"column '{name}' is not of integers ({str(error).splitlines()[0]})"
            raise TraceError(str(path), problem, "store it as 64-bit integers") from None
        missing[name] = np.asarray(column.is_null(), dtype=np.bool_)
        values[name] = np.asarray(pc.fill_null(column, 0), dtype=np.int64)
    return _Raw(values, missing, tenants, table.num_rows, meta)


def _fill(path: Path, raw: _Raw) -> NDArray[np.void]:
    """Make requests from the columns that are present and the defaults of the others."""
    requests = blank_requests(raw.rows)
    for column in COLUMNS:
        if column.name == "tenant":
            continue
        if column.name in raw.values:
            values = raw.values[column.name]
            absent = raw.missing[column.name]
        else:
            values = np.zeros(raw.rows, np.int64)
            absent = np.ones(raw.rows, np.bool_)
        _check_column(path, column, values, absent)
        if isinstance(column.default, str) and column.default in _BY_NAME:
            default: Any = requests[column.default]
        else:
            default = requests[column.name].copy()
        requests[column.name] = np.where(absent, default, values)
    return requests


def _check_column(
    path: Path, column: Column, values: NDArray[np.int64], absent: NDArray[np.bool_]
) -> None:
    """Check bounds before the values are squeezed into the narrower type of their field."""
    if column.default is None and absent.any():
        row = int(np.argmax(absent))
        problem = f"column '{column.name}' is empty"
        raise TraceError(str(path), problem, f"fill it in ({column.unit})", _line(path, row))
    bad = ~absent & ((values < column.low) | (values > column.high))
    if bad.any():
        row = int(np.argmax(bad))
        problem = f"column '{column.name}' is {values[row]}"
        remedy = f"allowed are {column.low} to {column.high} {column.unit}"
        raise TraceError(str(path), problem, remedy, _line(path, row))


def _index_tenants(raw: _Raw) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Number the tenants: first the described ones in their order, then as they appear."""
    known = [str(name) for name in raw.meta.get("tenants", [])]
    if raw.tenants is None:
        cells = [_DEFAULT_TENANT] * raw.rows
    else:
        cells = [cell or _DEFAULT_TENANT for cell in raw.tenants]
    index = {name: i for i, name in enumerate(dict.fromkeys([*known, *cells]))}
    return tuple(index), np.fromiter((index[cell] for cell in cells), np.int64, raw.rows)


def _nodes(path: Path, meta: Mapping[str, Any]) -> tuple[NodeSpec, ...]:
    described = meta.get("nodes", {"fields": [], "rows": []})
    try:
        names = described["fields"]
        return tuple(NodeSpec(**dict(zip(names, row, strict=True))) for row in described["rows"])
    except (TypeError, KeyError, ValueError) as error:
        problem = f"its description of the nodes is damaged ({error})"
        raise TraceError(str(path), problem, "write the table again", 1) from None


def _check(
    path: Path, requests: NDArray[np.void], tenants: int, nodes: tuple[NodeSpec, ...]
) -> None:
    """Check what needs more than one column or row."""
    fault = first_violation(requests, tenants)
    if fault is not None:
        line = _line(path, fault.row)
        raise TraceError(str(path), f"column '{fault.field}' {fault.problem}", fault.remedy, line)
    submit = requests["submit_ms"]
    early = submit[1:] < submit[:-1]
    if early.any():
        row = int(np.argmax(early)) + 1
        problem = f"column 'submit_ms' is {submit[row]}, earlier than the row before it"
        raise TraceError(str(path), problem, "sort the table by submit_ms", _line(path, row))
    if nodes:
        lost = unplaceable(requests, nodes)
        if lost.any():
            row = int(np.argmax(lost))
            problem = f"job {requests['source_id'][row]} can never fit the trace's nodes"
            raise TraceError(str(path), problem, "remove the job or shrink it", _line(path, row))


def _line(path: Path, row: int) -> int:
    """One-based line of a job's row in a CSV file; in a Parquet file, its one-based row."""
    if path.name.endswith(".parquet"):
        return row + 1
    text, _, first_line = _split(path, read_text(path))
    return csv_line(text, row, first_line)
