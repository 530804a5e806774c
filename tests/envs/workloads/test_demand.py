"""Demand series from ServeGen and the spot trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.workloads.demand import read_client_demand, read_spot_hourly
from orchestrator.errors import TraceError, ValidationError


@pytest.mark.traces
@pytest.mark.parametrize(
    ("model", "gaps", "mean"), [("m-small", 37, 1174.4), ("m-mid", 84, 1790.1), ("m-large", 0, 0)]
)
def test_servegen(traces_dir: Path, model: str, gaps: int, mean: float) -> None:
    """Means over all ticks, gaps counted as 0, are those of the traces' own statistics."""
    path = traces_dir / "servegen_2025" / f"client_rates_{model}.csv.gz"
    total, *clients = read_client_demand(path, clients=3)
    assert (len(total), total.tick_s, total.day, len(clients)) == (2016, 600, 144, 3)
    held = total.values[1:] == total.values[:-1]
    assert held.sum() >= gaps
    if mean:
        assert (total.values.sum() - total.values[1:][held].sum()) / 2016 == pytest.approx(
            mean, rel=0.01
        )
    for client in clients:
        assert (client.values <= total.values + 1e-6).all()
    means = [client.values[:1008].mean() for client in clients]
    assert means == sorted(means, reverse=True)


@pytest.mark.traces
def test_spot_hourly(traces_dir: Path) -> None:
    path = traces_dir / "alibaba_spot_2026" / "spot_hourly.csv.gz"
    active = read_spot_hourly(path)
    assert (len(active), active.values[0], active.unit) == (4419 - 1 - 48, 6960.64, "GPUs")
    assert active.values.max() == pytest.approx(15_534, abs=1)
    assert active.values[-1] > 5000
    jobs = read_spot_hourly(path, "jobs_submitted")
    assert (jobs.values[0], jobs.unit) == (184.0, "jobs/h")


def _write(folder: Path, text: str) -> Path:
    path = folder / "client_rates_tiny.csv"
    path.write_text(text)
    return path


def test_gaps_are_ticks_without_any_client(tmp_path: Path) -> None:
    rows = ["0,1,5", "600,0,0", "1200,0,2", "1800,3,0"]
    total, largest = read_client_demand(
        _write(tmp_path, "t,client_0,client_1\n" + "\n".join(rows) + "\n"), clients=1
    )
    assert (total.name, largest.name) == ("tiny", "tiny client 1")
    np.testing.assert_array_equal(total.values, [6, 6, 2, 3])
    np.testing.assert_array_equal(largest.values, [5, 5, 2, 0])
    with pytest.raises(ValidationError, match="gap of more than 0"):
        read_client_demand(tmp_path / "client_rates_tiny.csv", longest_gap=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,client_0\n0,1\n1200,2\n", "line 3: time goes from 0 to 1200, not by 600"),
        ("t,client_0\n0,1\n600,x\n", "line 3: column 'client_0' is 'x', not a finite number"),
        ("time,client_0\n0,1\n", "column 't' is missing"),
        ("t\n0\n", "no column of a client"),
    ],
)
def test_broken_tables_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_client_demand(_write(tmp_path, text))
    assert message in str(caught.value)


def test_a_spot_table_that_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "spot_hourly.csv"
    path.write_text("hour,gpus_active_requested\n0,1\n1,2\n")
    with pytest.raises(TraceError, match="too short"):
        read_spot_hourly(path)
    with pytest.raises(TraceError, match="'jobs_submitted' is missing"):
        read_spot_hourly(path, "jobs_submitted")


@pytest.mark.parametrize("cell", ["", "nan", "inf", "many"])
def test_hours_without_a_number_are_named(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "spot_hourly.csv"
    path.write_text(f"hour,gpus_active_requested\n0,1\n1,2\n\n2,{cell}\n3,4\n")
    with pytest.raises(TraceError, match="line 5: column 'gpus_active_requested' is"):
        read_spot_hourly(path, last_hours=0)


@pytest.mark.parametrize(("cell", "said"), [("-1", "-1"), ("1e300", r"1e\+300")])
def test_demand_that_cannot_be_meant_names_file_and_line(
    tmp_path: Path, cell: str, said: str
) -> None:
    rows = [f"{hour},{cell if hour == 3 else 5}" for hour in range(6)]
    path = _write(tmp_path, "\n".join(["hour,gpus_active_requested", *rows]))
    with pytest.raises(TraceError, match=f"line 5: column 'gpus_active_requested' is {said}; give"):
        read_spot_hourly(path, last_hours=1)
