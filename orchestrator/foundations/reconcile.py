"""Starting up: what should run, compared with what does. Observe first, act second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchestrator.engine import Engine
from orchestrator.messages import Event, StopJob, StopReason, WorkersLost
from orchestrator.ports import Runtime

__all__ = ["reconcile"]


async def reconcile(
    engine: Engine, runtime: Runtime, propose: Callable[[Event], Awaitable[object]]
) -> None:
    """Make a runtime and a cluster agree.

    Jobs whose workers are gone fall back to their last checkpoints; workers that should not exist
    are stopped.

    Parameters
    ----------
    engine : Engine
        What should run.
    runtime : Runtime
        What does.
    propose : coroutine function
        Logs and applies an event.
    """
    placed, observed = engine.placed(), runtime.observe()
    runtime.carry_out(
        [
            StopJob(job_id, run, StopReason.UNEXPECTED, 0)
            for job_id, run in observed.items()
            if placed.get(job_id) != run
        ]
    )
    for job_id, run in placed.items():
        if observed.get(job_id) != run:
            await propose(WorkersLost(job_id, run, "not found at start-up"))
