"""Numbers in trace files are those that every program reads alike; others are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.workloads.csvfile import Kind, read_columns
from envs.workloads.readers.gpu_jobs import read_tiresias
from envs.workloads.readers.swf import read_swf
from orchestrator.errors import TraceError

_FOREIGN = ["0x10", "0X1F", "-0x1", "1_000", "0o17", "0b1", "\u0663", "\uff11\uff12", "1 000"]
_PLAIN = {"16": 16, "-5": -5, "+5": 5, "8.0": 8, "1e3": 1000, "007": 7}


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("kind", [Kind.INTEGER, Kind.NUMBER])
@pytest.mark.parametrize("cell", _FOREIGN)
def test_a_number_that_some_programs_read_is_none(cell: str, kind: Kind, quoted: bool) -> None:
    text = f"name,size\na,1\n\nb,{f'{chr(34)}{cell}{chr(34)}' if quoted else cell}\n"
    with pytest.raises(TraceError, match=r"line 4: column 'size' is ") as failed:
        read_columns(Path("jobs.csv"), text, {"name": Kind.TEXT, "size": kind})
    assert repr(cell) in str(failed.value)
    assert "jobs.csv" in str(failed.value)


@pytest.mark.parametrize("kind", [Kind.INTEGER, Kind.NUMBER])
@pytest.mark.parametrize("cell", _PLAIN)
def test_a_plain_number_is_read(cell: str, kind: Kind) -> None:
    table = read_columns(Path("jobs.csv"), f"size\n{cell}\n", {"size": kind})
    assert table["size"].to_pylist() == [_PLAIN[cell]]


@pytest.mark.parametrize("name", ["0x10", "0xdeadbeef", "1_000"])
def test_a_text_may_look_like_any_number(name: str) -> None:
    kinds = {"name": Kind.TEXT, "size": Kind.INTEGER}
    table = read_columns(Path("jobs.csv"), f"name,size\n{name},3\n", kinds)
    assert table.to_pydict() == {"name": [name], "size": [3]}


@pytest.mark.parametrize("cell", ["0x10", "1_0", "\u0663"])
def test_readers_refuse_it_with_file_line_and_cell(tmp_path: Path, cell: str) -> None:
    jobs = tmp_path / "jobs.csv"
    head = "job_id,num_gpu,submit_time,model_name,duration"
    jobs.write_text(f"{head}\n1,1,0,vgg,60\n2,{cell},0,vgg,60\n", encoding="utf-8")
    with pytest.raises(TraceError, match=rf"jobs\.csv, line 3: column 'num_gpu' is '{cell}'"):
        read_tiresias(jobs)
    log = tmp_path / "log.swf"
    log.write_text(f"; MaxProcs: 8\n1 0 0 {cell} {'-1 ' * 14}\n", encoding="utf-8")
    with pytest.raises(TraceError, match=rf"log\.swf, line 2: field '.*' is '{cell}'"):
        read_swf(log)
