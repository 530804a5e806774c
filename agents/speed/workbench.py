"""What measurements work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from agents.speed.clock import CLOCKS
from envs.workloads import Trace, lublin_feitelson, read_swf
from orchestrator.errors import ConfigurationError

__all__ = ["UnavailableError", "Workbench"]


class UnavailableError(Exception):
    """A measurement that cannot be made here; its text says why."""


@dataclass(frozen=True)
class Workbench:
    """What measurements work on.

    Parameters
    ----------
    rows : int
        Rows of vector environments.
    steps : int
        Steps of a vector environment in one repeat.
    single_steps : int
        Steps of a single environment in one repeat.
    windows, length : int
        Windows that rules and rankers replay, and their jobs.
    train_seconds : float
        Training time of the end-to-end measurement.
    requests : int
        Requests whose routing is measured in one repeat.
    waiting : int
        Jobs that wait in the measurements of the live orchestrator.
    large : int
        Nodes of its large cluster; the other one has a tenth of them.
    commands : int
        Commands that a log makes durable in one repeat, 64 of them under way at once.
    history : int
        Jobs in the history of the log that a restart reads.
    known : int
        Jobs that the large live cluster is asked about, and that go through one that forgets them.
    decisions : int
        Of a learned policy on a live cluster; of each at most as many as it has nodes.
    futures : int
        That the twin of a live cluster plays for an answer.
    real_jobs : int
        Real jobs in one repeat.
    lease_ms : int
        Leases of the measured sharded cluster.
    repeats : int
    clock : {"wall", "cpu"}
        What measurements on a single thread read: the time of day, or the time that the thread
        was given. Without other load the two agree; with it, only the second can be compared.
    traces : str or None
        Folder of public traces.
    """

    rows: int = 256
    steps: int = 300
    single_steps: int = 20_000
    windows: int = 10
    length: int = 1024
    train_seconds: float = 20.0
    requests: int = 5000
    waiting: int = 20_000
    large: int = 10_000
    commands: int = 20_000
    history: int = 10_000
    known: int = 100_000
    decisions: int = 300
    futures: int = 200
    real_jobs: int = 200
    lease_ms: int = 2000
    repeats: int = 5
    clock: str = "wall"
    traces: str | None = None

    def __post_init__(self) -> None:
        """Reject unknown names."""
        if self.clock not in CLOCKS:
            known = ", ".join(CLOCKS)
            raise ConfigurationError(f"suite: unknown clock '{self.clock}'; known: {known}")

    @property
    def now(self) -> Callable[[], float]:
        """The clock that measurements on a single thread read."""
        return CLOCKS[self.clock]

    @cached_property
    def trace(self) -> Trace:
        """Lublin-1 where the public traces are, else generated jobs."""
        if self.traces:
            return read_swf(Path(self.traces) / "swf" / "lublin_256.swf.gz")
        return lublin_feitelson(20_000, 1)
