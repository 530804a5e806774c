from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.workloads import read_swf
from orchestrator.errors import TraceError


def job(number: int, submit: object, run: object = 60, **fields: object) -> str:
    """One line of a log; everything that is not given is missing."""
    cells: list[object] = [-1] * 18
    cells[0], cells[1], cells[3], cells[4] = number, submit, run, 4
    index = {"allocated": 4, "requested": 7, "time": 8, "user": 11, "group": 12, "application": 13}
    for name, value in fields.items():
        cells[index[name]] = value
    return " ".join(map(str, cells))


def write(folder: Path, *lines: str, header: str = "; MaxProcs: 64") -> Path:
    path = folder / "log.swf"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_loading_follows_the_published_semantics(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        job(3, 70, -1, allocated=2, requested=8),
        job(1, 10, 60, time=120, user=5, group=6, application=7),
        "",
        "; a remark",
        job(2, 20, 0, allocated=99),
        job(4, 70.5, 0.25, allocated=-1, requested=64, time=0),
    )
    trace = read_swf(path)
    r = trace.requests
    assert trace.name == "log"
    assert trace.nodes[0].cpu_cores == 64
    assert r["source_id"].tolist() == [1, 3, 4]
    assert r["submit_ms"].tolist() == [10_000, 70_000, 70_500]
    assert r["duration_ms"].tolist() == [60_000, 10_000, 250]
    assert r["requested_ms"].tolist() == [120_000, 10_000, 250]
    assert r["cpu_milli"].tolist() == [4000, 8000, 64_000]
    assert r["workers"].tolist() == [1, 1, 1]
    assert r["gpus_per_worker"].tolist() == [0, 0, 0]
    assert (r["user"][0], r["group"][0], r["application"][0]) == (5, 6, 7)
    assert (r["user"][1], r["group"][1], r["application"][1]) == (-1, -1, -1)


def test_machine_size_comes_from_the_caller_then_the_header(tmp_path: Path) -> None:
    both = write(tmp_path, job(1, 0), header="; MaxNodes: 16\n; MaxProcs: 32 (two each)")
    assert read_swf(both).cpu_cores == 32
    assert read_swf(both, processors=8).cpu_cores == 8
    nodes = write(tmp_path, job(1, 0), header="; MaxNodes: 16\n; MaxProcs: -1")
    assert read_swf(nodes).cpu_cores == 16
    with pytest.raises(TraceError, match="neither MaxProcs nor MaxNodes"):
        read_swf(write(tmp_path, job(1, 0), header="; Computer: unknown"))
    with pytest.raises(TraceError, match="'processors' was given as 0"):
        read_swf(nodes, processors=0)


def test_compressed_logs(tmp_path: Path) -> None:
    path = tmp_path / "log.swf.gz"
    path.write_bytes(gzip.compress(write(tmp_path, job(1, 0)).read_bytes()))
    assert read_swf(path).name == "log"


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ([], None, ["holds no jobs"]),
        ([job(1, 0), "1 2 3"], 3, ["3 columns instead of 18"]),
        ([job(1, 0) + " 7"], 2, ["19 columns instead of 18"]),
        ([job(1, 0), job(2, "soon")], 3, ["'submit time'", "'soon'", "number"]),
        ([job(1, 0, "nan")], 2, ["'run time'", "'nan'"]),
        ([job(1, "inf")], 2, ["'submit time'", "'inf'"]),
        ([job(1, -5)], 2, ["'submit time'", "-5", "negative"]),
        ([job(1, 0), job(1, 5)], 3, ["'job number'", "used twice"]),
        ([job(1.5, 0)], 2, ["'job number'", "1.5", "integer"]),  # type: ignore[arg-type]
        ([job(1, 0, allocated=65)], 2, ["'allocated processors'", "65", "machine's 64"]),
        ([job(1, 0, requested=65)], 2, ["'requested processors'", "65", "machine's 64"]),
        (
            [job(1, 0, allocated=0, requested=-1)],
            2,
            ["'requested processors'", "none is allocated"],
        ),
        ([job(1, 0, allocated=2.5)], 2, ["'allocated processors'", "2.5", "integer"]),
        ([job(1, 0, 1e14)], 2, ["'run time'", "too large"]),
        ([job(1, 0, 0)], None, ["run time 0", "dropped"]),
    ],
)
def test_bad_lines_name_line_and_field(
    tmp_path: Path, lines: list[str], line: int | None, words: list[str]
) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(TraceError) as caught:
        read_swf(path)
    assert str(path) in str(caught.value)
    assert caught.value.line == line
    for word in words:
        assert word in str(caught.value)


def test_absent_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        read_swf(tmp_path / "absent.swf")
    (tmp_path / "log.swf.gz").write_bytes(b"; MaxProcs: 64\n")
    with pytest.raises(TraceError, match="decompressed"):
        read_swf(tmp_path / "log.swf.gz")
    with pytest.raises(TraceError, match="cannot be read"):
        read_swf(tmp_path)


def _slow_loader(lines: list[str]) -> list[tuple[int, float, float, float, int]]:
    jobs = []
    for line in lines:
        cells = line.split()
        number, submit, run = int(cells[0]), float(cells[1]), float(cells[3])
        if run < 0:
            run = 10.0
        if run == 0:
            continue
        asked = float(cells[8])
        estimate = run if asked <= 0 else asked
        jobs.append((number, submit, run, estimate, max(int(cells[4]), int(cells[7]))))
    return sorted(jobs)


@pytest.mark.property
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_loader_agrees_with_its_slow_twin(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    numbers = data.draw(st.lists(st.integers(1, 10**6), min_size=1, max_size=12, unique=True))
    times = sorted(data.draw(st.lists(st.integers(0, 10**9), min_size=12, max_size=12)))
    small = st.integers(-1, 64)
    lines = [
        job(
            number,
            submit,
            data.draw(st.integers(-1, 10**6)) if i else 7,  # one job at least ran
            allocated=data.draw(st.integers(1, 64)),
            requested=data.draw(small),
            time=data.draw(st.integers(-1, 10**6)),
        )
        for i, (number, submit) in enumerate(zip(sorted(numbers), times, strict=False))
    ]
    shuffled = data.draw(st.permutations(lines))
    trace = read_swf(write(tmp_path_factory.mktemp("swf"), *shuffled))
    fast = [
        (
            int(q["source_id"]),
            q["submit_ms"] / 1000,
            q["duration_ms"] / 1000,
            q["requested_ms"] / 1000,
            int(q["cpu_milli"]) // 1000,
        )
        for q in trace.requests
    ]
    assert fast == _slow_loader(lines)


@pytest.mark.traces
def test_published_logs(traces_dir: Path) -> None:
    lublin = read_swf(traces_dir / "swf" / "lublin_256.swf.gz")
    assert (len(lublin), lublin.cpu_cores) == (10_000, 256)
    assert lublin.offered_load() == pytest.approx(1.061, abs=5e-4)
    assert lublin.requests["submit_ms"][0] == 5_094_000
    assert (lublin.requests["user"] == -1).all()
    nasa = read_swf(traces_dir / "swf" / "NASA-iPSC-1993-3.1-cln.swf.gz")
    assert (len(nasa), nasa.cpu_cores) == (18_066, 128)
    assert len(np.unique(nasa.requests["user"])) == 69


@pytest.mark.golden
def test_published_sequences_start_where_they_should(traces_dir: Path, golden_dir: Path) -> None:
    lublin = read_swf(traces_dir / "swf" / "lublin_256.swf.gz")
    packed = (golden_dir / "rlscheduler_lublin_256.json.gz").read_bytes()
    golden = json.loads(gzip.decompress(packed))
    first = golden["backfill"]["false"]["start_times_of_sequence_0"]
    # The first job of a sequence starts when it arrives, for the machine is empty then.
    assert min(first["fcfs"]) == lublin.requests["submit_ms"][golden["starts"][0]] // 1000


def status(line: str, code: int) -> str:
    """The same line with another status."""
    cells = line.split()
    cells[10] = str(code)
    return " ".join(cells)


@pytest.mark.parametrize("whole", [0, 1, 5, -1])
def test_partial_executions_are_not_jobs_of_their_own(tmp_path: Path, whole: int) -> None:
    last = 3 if whole == 1 else 4
    lines = [
        status(job(1, 0, 100), whole),
        status(job(1, 0, 40), 2),
        status(job(1, -1, 60), last),
        status(job(2, 60, 10), 1),
    ]
    for order in (lines, lines[::-1], [*lines[1:], lines[0]]):
        r = read_swf(write(tmp_path, *order)).requests
        assert r["source_id"].tolist() == [1, 2]
        assert r["duration_ms"].tolist() == [100_000, 10_000]


def test_partial_executions_without_the_whole_are_added_up(tmp_path: Path) -> None:
    lines = [
        status(job(1, 5, 40), 2),
        status(job(1, -1, -1), 2),
        status(job(1, 50, 60), 3),
        status(job(2, 60, 10), 3),
        status(job(3, 61, 7), 2),
    ]
    r = read_swf(write(tmp_path, *lines)).requests
    assert r["submit_ms"].tolist() == [5000, 60_000, 61_000]
    assert r["duration_ms"].tolist() == [100_000, 10_000, 7000]
    twice = [status(job(1, 0, 1), 1), status(job(1, 0, 2), 2), status(job(1, 0, 3), 0)]
    with pytest.raises(TraceError, match="line 4: field 'job number' is 1, used twice"):
        read_swf(write(tmp_path, *twice))


def test_jobs_cancelled_before_they_got_processors_are_left_out(tmp_path: Path) -> None:
    never = status(job(1, 0, -1, allocated=-1, requested=-1), 5)
    started = status(job(2, 1, 30), 5)
    r = read_swf(write(tmp_path, never, started)).requests
    assert r["source_id"].tolist() == [2]
    with pytest.raises(TraceError, match="run time 0 or was cancelled"):
        read_swf(write(tmp_path, never))


@pytest.mark.parametrize("numbers", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_numbers_need_not_follow_the_submissions(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    lines = [job(number, 10 * at) for at, number in enumerate(numbers)]
    for order in (lines, lines[::-1]):
        r = read_swf(write(tmp_path, *order)).requests
        assert r["submit_ms"].tolist() == [0, 10_000, 20_000]
        assert r["source_id"].tolist() == list(numbers)


def test_numbers_that_only_python_reads_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, job(1, 0), job(2, "1_000"))
    with pytest.raises(TraceError, match="line 3: field 'submit time' is '1_000', not a finite"):
        read_swf(path)
