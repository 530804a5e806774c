"""What running jobs costs beyond what their specifications say, and how their workers behave."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from orchestrator.errors import ConfigurationError

__all__ = ["Conduct", "RuntimeCosts"]


@dataclass(frozen=True)
class RuntimeCosts:
    """Time that a runtime takes, milliseconds; with the defaults it takes none.

    All of it comes on top of ``restart_seconds``, ``checkpoint_seconds`` and ``regroup_seconds`` of
    a specification. ``python scripts/fidelity.py`` finds what it is on a live cluster.

    Parameters
    ----------
    start_ms, start_per_worker_ms : float
        Time of a run that is no work, in one piece: to start the first worker, and each further
        one. What it takes to hear of the end is part of it.
    save_ms : float
        To save a job.
    stop_ms : float
        To end workers that are told to; the job's next run begins no sooner.
    lost_ms : float
        The same where workers went with their node, and somebody has to be sure of that.
    regroup_ms : float
        For which work stands still when the workers of a running job change.

    Raises
    ------
    ConfigurationError
        Naming the field that is no time.
    """

    start_ms: float = 0.0
    start_per_worker_ms: float = 0.0
    save_ms: float = 0.0
    stop_ms: float = 0.0
    lost_ms: float = 0.0
    regroup_ms: float = 0.0

    def __post_init__(self) -> None:
        """Check that all of it is time."""
        for one in fields(self):
            value = getattr(self, one.name)
            real = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not (real and math.isfinite(value) and value >= 0):
                problem = f"'{one.name}' is {value!r}"
                raise ConfigurationError(f"RuntimeCosts: {problem}; give milliseconds, at least 0")

    def until_work_ms(self, workers: int) -> int:
        """From a start, or a move, until the job works."""
        return round(self.start_ms + self.start_per_worker_ms * (workers - 1))


@dataclass(frozen=True)
class Conduct:
    """How the workers of a job behave.

    Parameters
    ----------
    exit_code : int
        With which they end when their time is over; another one than 0 is a failure.
    saves : bool
        Whether they save when they are asked to. If not they end, and what they did is lost; so
        does everybody who is asked before having begun.
    costs : RuntimeCosts or None
        What running this job costs; None: as much as others do.
    """

    exit_code: int = 0
    saves: bool = True
    costs: RuntimeCosts | None = None


@dataclass
class Lags:
    """How much less jobs have done than the engine, which knows nothing of costs, takes them for.

    Milliseconds of work at nominal speed, by job; who is not named has done what it should.
    ``saved`` is what the last checkpoints lack, ``running`` what running jobs do: the lag with
    which they began to work, when that was due and when it was, and their speed.
    """

    saved: dict[str, int] = field(default_factory=dict)
    running: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)

    def begin(
        self, job_id: str, lag_ms: int, due_ms: int, begins_ms: int, speed_milli: int
    ) -> None:
        """A job works from a time on, and not from when it should."""
        if lag_ms or begins_ms > due_ms:
            self.running[job_id] = lag_ms, due_ms, begins_ms, speed_milli
        else:
            self.running.pop(job_id, None)

    def at(self, job_id: str, now_ms: int) -> int:
        """What a running job lacks now."""
        if job_id not in self.running:
            return 0
        lag_ms, due_ms, begins_ms, speed_milli = self.running[job_id]
        idle_ms = max(min(now_ms, begins_ms) - due_ms, 0)
        return lag_ms + idle_ms * speed_milli // 1000

    def begins(self, job_id: str) -> int:
        """When a running job begins to work, or has; 0: nobody is late."""
        return self.running[job_id][2] if job_id in self.running else 0

    def save(self, job_id: str, lag_ms: int) -> None:
        """A job is saved, and lacks so much."""
        if lag_ms:
            self.saved[job_id] = lag_ms
        else:
            self.saved.pop(job_id, None)

    def forget(self, job_id: str) -> None:
        """A job has ended."""
        self.saved.pop(job_id, None)
        self.running.pop(job_id, None)


NO_COSTS = RuntimeCosts()
NO_CONDUCT: Mapping[str, Conduct] = {}
ORDINARY = Conduct()
