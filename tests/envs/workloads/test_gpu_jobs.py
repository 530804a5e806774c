"""What readers of GPU clusters' job lists share, and Tiresias' trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.workloads import read_tiresias
from envs.workloads.readers.gpu_jobs import split_gpus
from orchestrator.errors import TraceError


def test_split_gpus() -> None:
    gpus = np.array([1, 3, 5, 7, 8, 9, 10, 12, 16, 20, 24, 128])
    assert split_gpus(gpus).tolist() == [1, 3, 5, 7, 8, 1, 2, 4, 8, 4, 8, 8]
    assert split_gpus(gpus, 4).tolist() == [1, 3, 1, 1, 4, 1, 2, 4, 4, 4, 4, 4]


def test_tiresias_format(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(
        "job_id,num_gpu,submit_time,iterations,model_name,duration,interval\n"
        "7,4,0,100,vgg,60,5\n8,16,30,100,alexnet,90,5\n"
    )
    trace = read_tiresias(path)
    r = trace.requests
    assert (trace.name, trace.gpus, len(trace.nodes)) == ("jobs", 16, 1)
    assert r["gpus_per_worker"].tolist() == [4, 16]
    assert r["workers"].tolist() == [1, 1]
    assert r["source_id"].tolist() == [7, 8]
    assert r["application"].tolist() == [1, 0]
    assert r["submit_ms"].tolist() == [0, 30_000]
    with pytest.raises(TraceError, match="job 8 needs 16 GPUs"):
        read_tiresias(path, gpus=8)


@pytest.mark.traces
def test_published_tiresias_trace(traces_dir: Path) -> None:
    trace = read_tiresias(traces_dir / "tiresias_fixture" / "60_job.csv.gz")
    assert (len(trace), trace.gpus, trace.name) == (60, 16, "60_job")
    assert trace.requests["duration_ms"][0] == 164_000
