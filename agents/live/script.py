"""What is run, and what is to happen meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import JobKind
from orchestrator.types import JobPriority, JobSpec

__all__ = ["LiveRun"]


_SHELL = "#!/bin/sh"
_PACKAGES = "#!/usr/bin/env python"


@dataclass(frozen=True)
class LiveRun:
    """What is run.

    Parameters
    ----------
    nodes : sequence of mapping
        Fields of ``NodeSpec``, one agent each.
    programs : mapping of str to str
        Python programs by name, which can import installed packages if they begin with
        ``#!/usr/bin/env python``; or, with ``#!/bin/sh``, those of a shell. Their first argument is
        the job's ``seconds``, the second its number of workers.
    jobs : sequence of mapping
        ``name``, ``program`` and ``seconds``; ``at_s``, when it is submitted (0); ``expect``, how
        it should end (``completed``); ``priority`` by name; any other field of ``JobSpec``. See
        :func:`draw_jobs`.
    also : sequence of mapping
        Jobs besides these.
    scale : sequence of mapping
        ``job``, ``workers`` and ``at_s``: a running elastic job is told how many workers to have.
    lose : mapping or None
        ``node``, and ``at_s``, when its agent is killed; ``back_s``, when there is another one, if
        there is to be one. None: nothing is lost.
    picture_at_s : float or None
        When a picture of the page is taken, beside the run's folder; None: none is.
    timeout_s : float
        Most that it may take.
    """

    nodes: Sequence[Mapping[str, Any]]
    programs: Mapping[str, str]
    jobs: Sequence[Mapping[str, Any]]
    also: Sequence[Mapping[str, Any]] = ()
    scale: Sequence[Mapping[str, Any]] = ()
    lose: Mapping[str, Any] | None = None
    picture_at_s: float | None = None
    timeout_s: float = 40.0
    lease_s: float = 5.0
    grace_s: float = 1.0
    _common: Mapping[str, Any] = field(
        default_factory=lambda: {
            "priority": "BATCH",
            "num_workers": 1,
            "gpus_per_worker": 1,
            "memory_per_worker_gb": 1.0,
            "max_duration_hours": 0.01,
            "checkpoint_interval_steps": 0,
            "preemptible": True,
        },
        repr=False,
    )

    def __post_init__(self) -> None:
        """Check that what is named is there."""
        jobs = [spec.job_id for _, spec, _ in self.specs()]
        for step in self.scale:
            if step.get("job") not in jobs:
                problem = f"'scale' names job {step.get('job')!r}"
                raise ConfigurationError(f"live: {problem}; choose from {', '.join(jobs)}")
        names = [node["node_id"] for node in self.nodes]
        if self.lose is not None and self.lose.get("node") not in names:
            problem = f"'lose.node' is {self.lose.get('node')!r}"
            raise ConfigurationError(f"live: {problem}; choose from {', '.join(names)}")

    def specs(self) -> list[tuple[float, JobSpec, str]]:
        """Jobs, when they are submitted, and how each should end."""
        found = []
        for job in (*self.jobs, *self.also):
            given = {**self._common, **job}
            name, program = given.pop("name"), given.pop("program")
            seconds, at_s = given.pop("seconds"), float(given.pop("at_s", 0.0))
            expect = given.pop("expect", "completed")
            if program not in self.programs:
                known = ", ".join(self.programs)
                problem = f"job '{name}' runs '{program}', which is not among 'programs'"
                raise ConfigurationError(f"live: {problem}; choose from {known}")
            for key, kind in _NAMED.items():
                if key in given:
                    given[key] = _member(name, key, given[key], kind)
            given["num_workers"] = int(given["num_workers"])
            arguments = str(seconds), str(given["num_workers"])
            command = (*_interpreter(self.programs[program]), *arguments)
            spec = JobSpec(job_id=name, name=name, command=command, **given)
            found.append((at_s, spec, expect))
        return sorted(found, key=lambda entry: entry[0])


_NAMED: Mapping[str, type[Enum]] = {"priority": JobPriority, "kind": JobKind}


def _member(job: str, field: str, name: str, kind: type[Enum]) -> Enum:
    """The member of an enumeration that a name means."""
    if name not in kind.__members__:
        problem = f"job '{job}' has {field} {name!r}"
        raise ConfigurationError(f"live: {problem}; use one of {', '.join(kind.__members__)}")
    return kind[name]


def _interpreter(program: str) -> tuple[str, ...]:
    """What runs a program; its arguments come behind that."""
    if program.startswith(_SHELL):
        return ("/bin/sh", "-c", program, "sh")  # the last one is what it calls itself
    if program.startswith(_PACKAGES):
        return (sys.executable, "-c", program)
    return (sys.executable, "-S", "-c", program)  # which starts sooner
