"""Jobs from flags and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.request import JobFlags, hours, job_of, jobs_in
from orchestrator.client.forms import JobFields
from orchestrator.errors import ConfigurationError
from orchestrator.types import JobSpec


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *(("2h30m", 2.5), ("45m", 0.75), ("90s", 0.025), ("1d", 24.0), ("1d 12h", 36.0)),
        *(("1.5h", 1.5), ("500ms", 0.5 / 3600), (" 3MIN ", 0.05)),
    ],
)
def test_times_have_units(text: str, found: float) -> None:
    assert hours(text, "time-limit") == pytest.approx(found)


@pytest.mark.parametrize("text", ["", "90", "2 hours", "-3h", "h", "3h later", "1:30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write it like 2h30m"):
        hours(text, "time-limit")


def test_fields_are_those_of_jobs() -> None:
    assert set(JobFields.__annotations__) == set(JobSpec.__dataclass_fields__)


def test_every_flag_reaches_a_field() -> None:
    texts = {"time_limit": "1h", "deadline": "1h", "env": ["A=1"], "gpu_model": ["a"]}
    for name in JobFlags.__dataclass_fields__:
        job = job_of({name: texts.get(name, 1)}, "x")
        assert len(job) == 1
        assert set(job) <= set(JobFields.__annotations__)


def _written(tmp_path: Path, text: str) -> Path:
    place = tmp_path / "job.yaml"
    place.write_text(text)
    return place


def test_a_file_has_the_names_of_flags(tmp_path: Path) -> None:
    text = """
name: a
gpus-per-worker: 2
min_workers: 1
max_duration_hours: 3.5
time-limit: 2h
env: {DEBUG: true, N: 3, EMPTY: ""}
command: [python, -c, "print(1)"]
---
---
name: b
env: [A=b=c]
gpu-model: H200
command: [sleep, 1]
"""
    first, second = jobs_in(_written(tmp_path, text))
    assert first == {
        "name": "a",
        "gpus_per_worker": 2,
        "min_workers": 1,
        "max_duration_hours": 2.0,
        "environment": {"DEBUG": "true", "N": "3", "EMPTY": ""},
        "command": ["python", "-c", "print(1)"],
    }
    assert second["environment"] == {"A": "b=c"}
    assert (second["gpu_models"], second["command"]) == (["H200"], ["sleep", "1"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "it is no YAML"),
        ("", "it is empty"),
        ("- a", "it has no fields"),
        ("nam: a", "'nam' is no field of jobs; use one of command, cpus, deadline"),
        ("command: python a.py", "it is no list; write"),
        ("time-limit: 90", "no time with units"),
        ("env: [A]", "it sets no variable"),
        ("name: a\n---\n3", "document 2: it has no fields"),
    ],
)
def test_a_file_that_is_wrong_says_so(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        jobs_in(_written(tmp_path, text))
    assert "job.yaml" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        jobs_in(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system"]
)
def test_a_file_runs_nothing(tmp_path: Path, tag: Any) -> None:
    with pytest.raises(ConfigurationError, match="it is no YAML"):
        jobs_in(_written(tmp_path, f"name: {tag}"))
