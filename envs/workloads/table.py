"""The canonical trace table: its columns, and reading and writing it as CSV or Parquet.

The columns are the fields of :data:`orchestrator.kernels.state.records.REQUEST_DTYPE`, in its
order: a table and the engine's array hold the same integers. A file written here also carries the
trace's name, tenants and nodes: a CSV file in a first line that starts with
``# quartermaster trace``, a Parquet file in its schema's metadata. A table without them is read all
the same.
``docs/trace-format.md`` shows it to users.
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

from envs.workloads.csvfile import Kind, csv_line, header, read_columns, read_text
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.kernels.state.codes import JobKind, Topology
from orchestrator.kernels.state.records import REQUEST_DTYPE
from orchestrator.types import JobPriority, NodeSpec

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "COLUMNS",
    "Column",
    "Table",
    "Violation",
    "blank_requests",
    "first_violation",
    "line_of",
    "read_table",
    "to_frame",
    "write_table",
]

_I4_MAX = int(np.iinfo(np.int32).max)
_I8_MAX = int(np.iinfo(np.int64).max)
_MS_MAX = 1 << 53
"""Times above this (285,000 years) would lose precision wherever a float is computed from them."""

_MARK = "# quartermaster trace "
_META_KEY = b"quartermaster.trace"
_DEFAULT_TENANT = "default"
_ENDINGS = (".csv", ".csv.gz", ".parquet")
_NODE_FIELDS = tuple(field.name for field in fields(NodeSpec))


@dataclass(frozen=True)
class Column:
    """One column of the canonical trace table.

    Parameters
    ----------
    name : str
        Field of ``REQUEST_DTYPE``.
    unit : str
        Unit of the integer values; ``tenant`` alone holds text.
    meaning : str
        For people.
    low, high : int
        Smallest and largest value allowed.
    default : int or str or None
        Value when the column is absent or a cell is empty; the name of another column means
        "the same as that one", ``"row"`` the zero-based number of the row; None means that the
        column is required.
    """

    name: str
    unit: str
    meaning: str
    low: int
    high: int
    default: int | str | None


COLUMNS: tuple[Column, ...] = (
    Column("submit_ms", "ms", "submission time, from the start of the trace", 0, _MS_MAX, None),
    Column("duration_ms", "ms", "true run time at nominal speed", 1, _MS_MAX, None),
    Column("requested_ms", "ms", "the user's estimate of it", 1, _MS_MAX, "duration_ms"),
    Column("checkpoint_interval_ms", "ms", "time between saves; 0: never saved", 0, _MS_MAX, 0),
    Column("checkpoint_ms", "ms", "cost of a planned checkpoint", 0, _MS_MAX, 0),
    Column("restart_ms", "ms", "cost of starting again", 0, _MS_MAX, 0),
    Column("regroup_ms", "ms", "cost of changing the number of workers", 0, _MS_MAX, 0),
    Column("deadline_ms", "ms", "deadline, from submission; 0: none", 0, _MS_MAX, 0),
    Column("storage_mib", "MiB", "size of a checkpoint", 0, _MS_MAX, 0),
    Column("memory_mib", "MiB", "host memory of one worker", 0, _MS_MAX, 0),
    Column("cpu_milli", "milli-core", "CPU of one worker", 0, _I4_MAX, 0),
    Column("workers", "count", "workers of the job", 1, _I4_MAX, 1),
    Column("min_workers", "count", "fewest workers of an elastic job", 1, _I4_MAX, "workers"),
    Column("max_workers", "count", "most workers of an elastic job", 1, _I4_MAX, "workers"),
    Column("gpus_per_worker", "count", "GPUs of one worker, all on one node", 0, 64, 0),
    Column("gpu_milli", "milli-GPU", "share of each of its GPUs", 1, 1000, 1000),
    Column("gpu_memory_mib", "MiB", "memory needed on each GPU", 0, _I4_MAX, 0),
    Column("bandwidth_mbps", "Mbit/s", "one worker's traffic across nodes", 0, _I4_MAX, 0),
    Column("curve", "number", "throughput curve; 0: proportional to workers", 0, _I4_MAX, 0),
    Column("service", "number", "service that its workers are replicas of", 0, _I4_MAX, 0),
    Column("tenant", "text", "who pays", 0, _I4_MAX, 0),
    Column("user", "number", "user in the source trace; -1: unknown", -1, _I4_MAX, -1),
    Column("group", "number", "group in the source trace; -1: unknown", -1, _I4_MAX, -1),
    Column("application", "number", "application in the source; -1: unknown", -1, _I4_MAX, -1),
    Column("model_mask", "bits", "GPU models that will do; 0: any", 0, (1 << 32) - 1, 0),
    Column("source_id", "number", "the job's number in its source", -_I8_MAX, _I8_MAX, "row"),
    Column(
        "priority",
        "code",
        "0 critical, 1 production, 2 batch, 3 best effort",
        0,
        max(p.value for p in JobPriority),
        JobPriority.BATCH.value,
    ),
    Column("preemptible", "0 or 1", "may be preempted", 0, 1, 0),
    Column("elastic", "0 or 1", "may change its number of workers", 0, 1, 0),
    Column("gang", "0 or 1", "all workers start together", 0, 1, 1),
    Column(
        "topology",
        "code",
        "narrowest domain: 0 any, 1 spine, 2 rack, 3 node, 4 NVLink island",
        0,
        max(Topology),
        int(Topology.ANY),
    ),
    Column("kind", "code", "0 training, 1 batch inference, 2 service", 0, max(JobKind), 0),
)
"""Every column of the canonical trace table, in the order of ``REQUEST_DTYPE``."""

_BY_NAME = {column.name: column for column in COLUMNS}

if tuple(_BY_NAME) != REQUEST_DTYPE.names:  # pragma: no cover
    raise AssertionError("COLUMNS and REQUEST_DTYPE have drifted apart")


def blank_requests(count: int) -> NDArray[np.void]:
    """Make requests that hold every column's default.

    Parameters
    ----------
    count : int
        Number of jobs.

    Returns
    -------
    ndarray of REQUEST_DTYPE, shape [count]
        Required columns are zero; columns whose default is another column are zero too and
        are for the caller to fill; ``source_id`` counts from 0.
    """
    requests = np.zeros(count, REQUEST_DTYPE)
    for column in COLUMNS:
        if isinstance(column.default, int):
            requests[column.name] = column.default
    requests["workers"] = requests["min_workers"] = requests["max_workers"] = 1
    requests["source_id"] = np.arange(count)
    return requests


@dataclass(frozen=True)
class Violation:
    """A row that breaks a column's bounds, or the bounds between columns.

    Parameters
    ----------
    row : int
        Index of the first offending row.
    field : str
        Its column.
    problem, remedy : str
        What is wrong, and what to do.
    """

    row: int
    field: str
    problem: str
    remedy: str


def first_violation(requests: NDArray[np.void], tenants: int) -> Violation | None:
    """Find the first value that no engine could work with.

    Parameters
    ----------
    requests : ndarray of REQUEST_DTYPE, shape [jobs]
        What is checked.
    tenants : int
        Number of tenants that ``tenant`` may index.

    Returns
    -------
    Violation or None
        None when everything is in order.
    """
    for column in COLUMNS:
        values = requests[column.name]
        high = tenants - 1 if column.name == "tenant" else column.high
        bad = (values < column.low) | (values > high)
        if bad.any():
            row = int(np.argmax(bad))
            value = int(values[row])
            return Violation(row, column.name, f"is {value}", f"allowed are {column.low} to {high}")
    checks = (
        (
            "min_workers",
            (requests["elastic"] == 1) & (requests["min_workers"] > requests["workers"]),
            "lower it to at most 'workers'",
        ),
        (
            "max_workers",
            (requests["elastic"] == 1) & (requests["max_workers"] < requests["workers"]),
            "raise it to at least 'workers'",
        ),
        (
            "gpus_per_worker",
            (requests["gpus_per_worker"] == 0)
            & (requests["cpu_milli"] == 0)
            & (requests["memory_mib"] == 0),
            "the job asks for nothing: give it GPUs, CPU or memory",
        ),
    )
    for field, bad, remedy in checks:
        if bad.any():
            row = int(np.argmax(bad))
            return Violation(row, field, f"is {int(requests[field][row])}", remedy)
    return None


@dataclass(frozen=True)
class Table:
    """What a file of the canonical table holds: the parts of a trace.

    Parameters
    ----------
    name : str
    requests : ndarray of REQUEST_DTYPE, shape [jobs]
    tenants : tuple of str
        Names that ``requests['tenant']`` indexes.
    nodes : tuple of NodeSpec
    """

    name: str
    requests: NDArray[np.void]
    tenants: tuple[str, ...]
    nodes: tuple[NodeSpec, ...]


@dataclass(frozen=True)
class _Raw:
    """Contents of a file before they are checked against the columns."""

    values: Mapping[str, NDArray[np.int64]]  # [rows] each; integer columns that are present
    missing: Mapping[str, NDArray[np.bool_]]  # [rows] where a cell is empty
    tenants: list[str] | None  # [rows] the tenant column, "" where empty
    rows: int
    meta: Mapping[str, Any]


def to_frame(requests: NDArray[np.void], tenants: tuple[str, ...]) -> pd.DataFrame:
    """Jobs as a data frame: one row each, integer columns, and the tenant's name."""
    import pandas as pd

    names = np.array(tenants, dtype=object)
    columns: dict[str, Any] = {c.name: requests[c.name] for c in COLUMNS}
    columns["tenant"] = names[requests["tenant"]]
    return pd.DataFrame(columns)


def write_table(table: Table, path: Path) -> None:
    """Write a canonical table; the file appears whole or not at all.

    Parameters
    ----------
    table : Table
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
    data = _parquet_bytes(table) if ending == ".parquet" else _csv_bytes(table)
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


def read_table(path: Path) -> Table:
    """Read a canonical table.

    Parameters
    ----------
    path : Path
        Ends in ``.csv``, ``.csv.gz`` or ``.parquet``.

    Returns
    -------
    Table
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
    _check_rows(path, requests, len(tenants))
    return Table(name, requests, tenants, nodes)


def line_of(path: Path, row: int) -> int:
    """One-based line of a job's row in a CSV file; in a Parquet file, its one-based row."""
    if path.name.endswith(".parquet"):
        return row + 1
    text, _, first_line = _split(path, read_text(path))
    return csv_line(text, row, first_line)


def _ending(path: Path) -> str | None:
    return next((ending for ending in _ENDINGS if path.name.endswith(ending)), None)


# --- writing -----------------------------------------------------------------------------------


def _meta_json(table: Table) -> str:
    rows = [[getattr(node, field) for field in _NODE_FIELDS] for node in table.nodes]
    meta = {
        "version": 1,
        "name": table.name,
        "tenants": list(table.tenants),
        "nodes": {"fields": list(_NODE_FIELDS), "rows": rows},
    }
    return json.dumps(meta, separators=(",", ":"))


def _csv_bytes(table: Table) -> bytes:
    body = to_frame(table.requests, table.tenants).to_csv(index=False, lineterminator="\n")
    return f"{_MARK}{_meta_json(table)}\n{body}".encode()


def _parquet_bytes(table: Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(to_frame(table.requests, table.tenants), preserve_index=False)
    stream = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata({_META_KEY: _meta_json(table)}), stream)
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
            if pa.types.is_temporal(column.type):
                column = _milliseconds(path, name, column)
            elif pa.types.is_floating(column.type):
                _require_whole(path, name, column)
            column = column.cast(pa.int64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            problem = f"column '{name}' is not of integers ({str(error).splitlines()[0]})"
            raise TraceError(str(path), problem, "store it as 64-bit integers") from None
        missing[name] = np.asarray(column.is_null(), dtype=np.bool_)
        values[name] = np.asarray(pc.fill_null(column, 0), dtype=np.int64)
    return _Raw(values, missing, tenants, table.num_rows, meta)


def _milliseconds(path: Path, name: str, column: Any) -> Any:
    """A column of durations or points in time of any unit as milliseconds.

    Points in time can only be submissions; they are counted from the first one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    points = pa.types.is_timestamp(column.type) and name == "submit_ms"
    if _BY_NAME[name].unit != "ms" or not (points or pa.types.is_duration(column.type)):
        problem = f"column '{name}' holds {column.type}"
        remedy = f"store it as 64-bit integers ({_BY_NAME[name].unit})"
        raise TraceError(str(path), problem, remedy)
    per_ms = {"s": 1000, "ms": 1, "us": -1000, "ns": -1_000_000}[column.type.unit]
    ticks = column.cast(pa.int64())
    if points:
        ticks = pc.subtract_checked(ticks, pc.min(ticks))
    if per_ms > 0:
        return pc.multiply_checked(ticks, per_ms)
    return pc.divide(ticks, -per_ms)


def _require_whole(path: Path, name: str, column: Any) -> None:
    """Raise for the first number with a fraction, or that is none."""
    values = np.asarray(column.fill_null(0.0).to_numpy(), np.float64)
    wrong = ~np.isfinite(values) | (values != np.floor(values))
    if wrong.any():
        row = int(np.argmax(wrong))
        problem = f"column '{name}' is not of integers (it holds {values[row]})"
        raise TraceError(str(path), problem, "store it as 64-bit integers", row + 1)


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
        raise TraceError(str(path), problem, f"fill it in ({column.unit})", line_of(path, row))
    bad = ~absent & ((values < column.low) | (values > column.high))
    if bad.any():
        row = int(np.argmax(bad))
        problem = f"column '{column.name}' is {values[row]}"
        remedy = f"allowed are {column.low} to {column.high} {column.unit}"
        raise TraceError(str(path), problem, remedy, line_of(path, row))


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


def _check_rows(path: Path, requests: NDArray[np.void], tenants: int) -> None:
    """Check what needs more than one column or row."""
    fault = first_violation(requests, tenants)
    if fault is not None:
        line = line_of(path, fault.row)
        raise TraceError(str(path), f"column '{fault.field}' {fault.problem}", fault.remedy, line)
    submit = requests["submit_ms"]
    early = submit[1:] < submit[:-1]
    if early.any():
        row = int(np.argmax(early)) + 1
        problem = f"column 'submit_ms' is {submit[row]}, earlier than the row before it"
        raise TraceError(str(path), problem, "sort the table by submit_ms", line_of(path, row))
