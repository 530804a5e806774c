from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs.workloads import Trace, gpu_cluster
from envs.workloads.table import COLUMNS, blank_requests
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.types import NodeSpec

ENDINGS = (".csv", ".csv.gz", ".parquet")
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.isprintable)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    count = draw(st.integers(1, 6))
    tenants = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    array = blank_requests(count)
    for column in COLUMNS:
        high = len(tenants) - 1 if column.name == "tenant" else column.high
        values = st.one_of(st.integers(column.low, high), st.sampled_from([column.low, high]))
        array[column.name] = draw(st.lists(values, min_size=count, max_size=count))
    array["min_workers"] = np.minimum(array["min_workers"], array["workers"])
    array["max_workers"] = np.maximum(array["max_workers"], array["workers"])
    array["cpu_milli"] = np.maximum(array["cpu_milli"], 1)
    nodes: tuple[NodeSpec, ...] = ()
    if draw(st.booleans()):
        # Nodes hold these jobs: a table of jobs that never fit its nodes is refused.
        array["workers"] = array["min_workers"] = array["max_workers"] = 1
        array["topology"] = array["bandwidth_mbps"] = 0
        array["gpu_memory_mib"] = np.minimum(array["gpu_memory_mib"], 1024)
        array["memory_mib"] = np.minimum(array["memory_mib"], 1024)
        nodes = (
            NodeSpec("big", 64, 80.5, 3_000_000, 512.25, 100.0, "NVLink", True, draw(names), 3, 1),
            NodeSpec(draw(names), 0, 0.0, 1, 0.1, 0.0, "none", available=False),
        )
    return Trace(draw(names), array, tuple(tenants), nodes)


@pytest.mark.property
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trace=traces(), ending=st.sampled_from(ENDINGS))
def test_round_trip_is_exact(
    trace: Trace, ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table") / f"trace{ending}"
    trace.write_table(path)
    assert Trace.read_table(path) == trace


@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip_of_a_generated_trace(ending: str, tmp_path: Path) -> None:
    trace = gpu_cluster(2000, 5)
    path = tmp_path / f"trace{ending}"
    trace.write_table(path)
    assert Trace.read_table(path) == trace
    first = path.read_bytes()
    trace.write_table(path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_to_table_has_the_documented_columns() -> None:
    table = gpu_cluster(50, 1).to_table()
    assert list(table.columns) == [c.name for c in COLUMNS]
    assert len(table) == 50
    assert isinstance(table["tenant"].iloc[0], str)


def test_the_documentation_shows_every_column() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "trace-format.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    shown = {name: (unit, meaning, default.strip("`")) for name, unit, meaning, default in rows}
    for column in COLUMNS:
        default = {None: "required", "row": "the row's number, from 0"}.get(column.default)  # type: ignore[arg-type]
        if column.name == "tenant":
            default = "default"
        expected = (column.unit, column.meaning, default or str(column.default))
        assert shown[column.name] == expected
    assert list(shown) == [c.name for c in COLUMNS]


def test_defaults_fill_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "tenant,duration_ms,submit_ms,gpus_per_worker,workers,requested_ms,source_id\n"
        "b,5,0,2,3,,\n,6,1,1,,9,77\na,7,1,1,2,,\n"
    )
    trace = Trace.read_table(path)
    assert trace.name == "mine"
    assert trace.tenants == ("b", "default", "a")
    assert trace.nodes == ()
    r = trace.requests
    assert r["requested_ms"].tolist() == [5, 9, 7]
    assert r["workers"].tolist() == r["max_workers"].tolist() == [3, 1, 2]
    assert r["source_id"].tolist() == [0, 77, 2]
    assert r["priority"].tolist() == [2, 2, 2]
    assert r["gang"].tolist() == [1, 1, 1]
    assert r["gpu_milli"].tolist() == [1000] * 3


HEAD = "submit_ms,duration_ms,cpu_milli"
STRANGE_NODES = '{"version":1,"nodes":{"fields":["x"],"rows":[[1]]}}'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, ["submit_ms", "missing"]),
        ("submit_ms,cpu_milli\n0,1\n", 1, ["duration_ms", "missing"]),
        (f"{HEAD},oops\n0,1,1,1\n", 1, ["unknown column 'oops'", "known columns"]),
        (f"{HEAD},duration_ms\n0,1,1,1\n", 1, ["duration_ms", "twice"]),
        (f"{HEAD}\n", None, ["holds no jobs"]),
        (f"{HEAD}\n0,1,1\n0,x,1\n", 3, ["duration_ms", "'x'", "integer"]),
        (f"{HEAD}\n0,1.5,1\n", 2, ["duration_ms", "'1.5'"]),
        (f"{HEAD}\n0,99999999999999999999,1\n", 2, ["duration_ms", "64-bit"]),
        (f"{HEAD}\n0,1\n", 2, ["2 cells instead of 3"]),
        (f"{HEAD}\n0,1,1\n\n0,0,1\n", 4, ["duration_ms", "is 0"]),
        (f"{HEAD}\n0,1,1\n0,,1\n", 3, ["duration_ms", "is empty"]),
        (f"{HEAD}\n-5,1,1\n", 2, ["submit_ms", "-5"]),
        (f"{HEAD}\n0,1,1\n9,1,1\n8,1,1\n", 4, ["submit_ms", "earlier", "sort"]),
        (f"{HEAD}\n0,1,3000000000\n", 2, ["cpu_milli", "3000000000"]),
        (f"{HEAD}\n0,1,0\n", 2, ["asks for nothing"]),
        (f"{HEAD},tenant\n0,1,1,a\tb\n", None, ["tenants", "printable"]),
        (f"# quartermaster trace {{\n{HEAD}\n0,1,1\n", 1, ["damaged"]),
        (f'# quartermaster trace {{"version":2}}\n{HEAD}\n0,1,1\n', 1, ["version"]),
        (
            f"# quartermaster trace {STRANGE_NODES}\n{HEAD}\n0,1,1\n",
            1,
            ["nodes", "damaged"],
        ),
    ],
)
def test_bad_csv_names_line_and_column(
    tmp_path: Path, text: str, line: int | None, words: list[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        Trace.read_table(path)
    message = str(caught.value)
    assert str(path) in message
    assert caught.value.line == line
    for word in words:
        assert word in message


def test_line_numbers_count_the_description(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    trace = gpu_cluster(10, 0)
    trace.write_table(path)
    lines = path.read_text().splitlines()
    lines[4] = "x" + lines[4]
    path.write_text("\n".join(lines))
    with pytest.raises(TraceError) as caught:
        Trace.read_table(path)
    assert caught.value.line == 5


def test_jobs_that_never_fit_the_nodes_are_refused(tmp_path: Path) -> None:
    array = gpu_cluster(10, 0).requests.copy()
    array["workers"][3] = array["max_workers"][3] = 10_000
    trace = Trace("t", array, gpu_cluster(10, 0).tenants, gpu_cluster(10, 0).nodes)
    for ending, line in ((".csv", 6), (".parquet", 4)):
        path = tmp_path / f"t{ending}"
        trace.write_table(path)
        with pytest.raises(TraceError, match="never fit") as caught:
            Trace.read_table(path)
        assert caught.value.line == line


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        Trace.read_table(tmp_path / "absent.csv")
    with pytest.raises(TraceError, match="no such file"):
        Trace.read_table(tmp_path / "absent.parquet")
    with pytest.raises(TraceError, match="unknown table format"):
        Trace.read_table(tmp_path / "t.json")
    with pytest.raises(ConfigurationError, match="unknown table format"):
        gpu_cluster(10, 0).write_table(tmp_path / "t.json")
    (tmp_path / "t.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(TraceError, match="decompressed"):
        Trace.read_table(tmp_path / "t.csv.gz")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"submit_ms" * 100)[:-9])
    with pytest.raises(TraceError, match="decompressed"):
        Trace.read_table(tmp_path / "cut.csv.gz")
    (tmp_path / "t.csv").write_bytes(b"submit_ms\n\xff\xfe\n")
    with pytest.raises(TraceError, match="not text") as caught:
        Trace.read_table(tmp_path / "t.csv")
    assert caught.value.line == 2
    (tmp_path / "t.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(TraceError, match="Parquet"):
        Trace.read_table(tmp_path / "t.parquet")
    assert list(tmp_path.glob(".t*")) == []


def test_parquet_of_the_wrong_type_names_the_column(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"submit_ms": [0], "duration_ms": [1.5], "cpu_milli": [1]})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TraceError, match="'duration_ms' is not of integers"):
        Trace.read_table(tmp_path / "t.parquet")


def _times(folder: Path, **columns: object) -> Trace:
    import pandas as pd

    pd.DataFrame({"cpu_milli": [1000, 1000]} | columns).to_parquet(folder / "t.parquet")
    return Trace.read_table(folder / "t.parquet")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_times_of_any_unit_become_milliseconds(tmp_path: Path, unit: str, zone: str | None) -> None:
    import pandas as pd

    spans = pd.to_timedelta([1, 2], "s").astype(f"timedelta64[{unit}]")
    points = pd.to_datetime([100, 105], unit="s").astype(f"datetime64[{unit}]").tz_localize(zone)
    requests = _times(tmp_path, submit_ms=points, duration_ms=spans, deadline_ms=spans).requests
    assert requests["submit_ms"].tolist() == [0, 5000]
    assert requests["duration_ms"].tolist() == requests["deadline_ms"].tolist() == [1000, 2000]
    # Durations since the start of the trace stay what they are.
    assert _times(tmp_path, submit_ms=spans, duration_ms=spans).requests["submit_ms"][0] == 1000


def test_times_where_they_cannot_be_are_refused(tmp_path: Path) -> None:
    import pandas as pd

    spans, points = pd.to_timedelta([1, 2], "s"), pd.to_datetime([0, 5], unit="s")
    with pytest.raises(TraceError, match="'memory_mib' holds duration"):
        _times(tmp_path, submit_ms=[0, 1], duration_ms=[1, 2], memory_mib=spans)
    with pytest.raises(TraceError, match="'duration_ms' holds timestamp"):
        _times(tmp_path, submit_ms=[0, 1], duration_ms=points)
    with pytest.raises(TraceError, match="'submit_ms' holds date32"):
        _times(tmp_path, submit_ms=points.date, duration_ms=[1, 2])
    with pytest.raises(TraceError, match="line 2: column 'duration_ms' is empty"):
        _times(tmp_path, submit_ms=[0, 1], duration_ms=pd.to_timedelta([1, None], "s"))
    with pytest.raises(TraceError, match="line 2: column 'duration_ms' is not of integers"):
        _times(tmp_path, submit_ms=[0, 1], duration_ms=[1.0, float("inf")])


@pytest.mark.parametrize("blank", ["nan", "NULL", "<NA>"])
def test_what_stands_for_nothing_is_an_empty_cell(tmp_path: Path, blank: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"submit_ms,duration_ms,cpu_milli,memory_mib\n0,5.0,1,{blank}\n0,5,1,7.0\n")
    assert Trace.read_table(path).requests["memory_mib"].tolist() == [0, 7]
    big = (1 << 53) + 1
    path.write_text(f"submit_ms,duration_ms,cpu_milli,source_id\n0,5.0,1,{big}\n")
    assert Trace.read_table(path).requests["source_id"].tolist() == [big]
    path.write_text(f"submit_ms,duration_ms,cpu_milli\n0,{blank},1\n")
    with pytest.raises(TraceError, match="line 2: column 'duration_ms' is empty"):
        Trace.read_table(path)
