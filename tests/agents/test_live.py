"""The live run that the demonstration shows: real processes, a lost agent, and what is told."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from agents.live import LiveRun, run_live
from orchestrator.errors import ConfigurationError

_NODE = {
    "gpus": 2,
    "gpu_memory_gb": 16,
    "cpu_cores": 8,
    "memory_gb": 64,
    "network_bandwidth_gbps": 10,
    "gpu_topology": "NVLink",
}
_WAIT = "import sys, time; time.sleep(float(sys.argv[1]))"
_FAIL = "import sys; sys.exit(4)"


def _run(**changes: object) -> LiveRun:
    run = LiveRun(
        nodes=[{"node_id": "n0", **_NODE}, {"node_id": "n1", **_NODE}],
        programs={"wait": _WAIT, "fail": _FAIL},
        jobs=[
            {"name": "gang", "program": "wait", "seconds": 1.5, "num_workers": 3},
            {"name": "bad", "program": "fail", "seconds": 0, "expect": "failed"},
            {"name": "late", "program": "wait", "seconds": 0.1, "at_s": 0.3},
        ],
    )
    return replace(run, **changes)


def _play(run: LiveRun, folder: Path, **options: str) -> tuple[bool, str]:
    told = io.StringIO()
    fine = run_live(run, folder, Console(file=told, width=120), **options)
    return fine, told.getvalue()


def _left_behind(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or ()):
            found.append(process)
    return found


def test_a_run_ends_tells_its_story_and_leaves_no_process(tmp_path: Path) -> None:
    lose = {"node": "n0", "at_s": 0.6}
    single = [{"name": "a", "program": "wait", "seconds": 1, "num_workers": 2}, *_run().jobs[1:]]
    fine, told = _play(_run(lose=lose, jobs=single), tmp_path)
    assert fine, told
    for text in ("2 agents are there", "the agent of n0 is killed", "down: n0"):
        assert text in told
    assert "a            completed" in told
    assert "bad          failed       rank 0 on node" in told
    assert not _left_behind(tmp_path)


def test_a_run_that_takes_too_long_is_ended_and_says_so(tmp_path: Path) -> None:
    jobs = [{"name": "endless", "program": "wait", "seconds": 60}]
    fine, told = _play(_run(jobs=jobs, timeout_s=0.5), tmp_path, rule="sjf")
    assert not fine
    assert "it was not done in 0.5 s" in told
    assert not _left_behind(tmp_path)


def test_what_does_not_end_as_it_should_is_told(tmp_path: Path) -> None:
    fine, _ = _play(_run(jobs=[{"name": "bad", "program": "fail", "seconds": 0}]), tmp_path)
    assert not fine


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jobs": [{"name": "a", "program": "no", "seconds": 1}]}, "choose from wait, fail"),
        (
            {"jobs": [{"name": "a", "program": "wait", "seconds": 1, "priority": "HIGH"}]},
            "use one of CRITICAL",
        ),
        ({"lose": {"node": "n7", "at_s": 1}}, "choose from n0, n1"),
    ],
)
def test_what_is_not_there_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _run(**changes)


def test_a_rule_or_a_bundle_decides_not_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="give one of them"):
        run_live(_run(), tmp_path, Console(file=io.StringIO()), rule="sjf", bundle="there")
