"""What the twin answers of a live cluster: when, why, and what if."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import TypeVar

from orchestrator.clock import LogClock
from orchestrator.engine.engine import Engine
from orchestrator.errors import ConfigurationError
from orchestrator.live.cycle import SchedulingCycle
from orchestrator.live.journal import Journal
from orchestrator.live.limits import TimeLimits
from orchestrator.scheduling.rules import RULES
from orchestrator.twin.answers import Band, WhatIf, When, Why
from orchestrator.twin.aside import Inquiry, Thinker
from orchestrator.twin.ask import Twin
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.scene.cast import Cast, Foreseen, cast_of
from orchestrator.twin.supposed import Suppose

__all__ = ["Foresight"]


_T = TypeVar("_T")


class Foresight:
    """The part of :class:`orchestrator.InfrastructureOrchestrator` that asks its twin.

    The cluster is set aside, which takes as long as copying it, and a process of its own thinks
    the question over, one after the other; the cluster goes on meanwhile, and is not changed by it.
    """

    engine: Engine
    _cycle: SchedulingCycle
    _journal: Journal
    _limits: TimeLimits
    _time: LogClock
    _asking: asyncio.Lock
    _thinker: Thinker

    async def _ask(
        self,
        question: Callable[[Twin], _T],
        config: TwinConfig | None,
        notes_of: Collection[str] = (),
    ) -> _T:
        """Have the twin of this moment answer, who knows what happened to some jobs before."""
        async with self._asking:
            self._journal.try_read()
            inquiry = Inquiry(
                image=self.engine.image(notes_of),
                cast=cast_of(self._cycle.policy),
                now_ms=self._time.now_ms(),
                config=replace(config or TwinConfig(), limited=self._limits.ends_jobs),
                question=question,
            )
            return await self._thinker.ask(inquiry)

    async def when(self, job_id: str, config: TwinConfig | None = None) -> When:
        """When a job starts and ends, by futures of the cluster.

        Parameters
        ----------
        job_id : str
        config : TwinConfig or None, optional
            How many futures, and how far; None: the defaults.

        Raises
        ------
        UnknownEntityError
            If there is no such job.
        IllegalActionError
            If it has ended.
        """
        self.engine.jobs.index.find(job_id)
        return await self._ask(partial(Twin.when, job_id=job_id), config)

    async def starts(self, config: TwinConfig | None = None) -> dict[str, Band | None]:
        """When each job that waits starts; None: it does not, in any future."""
        return await self._ask(Twin.starts, config)

    async def why(self, job_id: str) -> Why:
        """Why a job waits, who holds what it needs, and what would start it at once.

        Raises
        ------
        UnknownEntityError
            If there is no such job.
        IllegalActionError
            If it does not wait.
        """
        self.engine.jobs.index.find(job_id)
        return await self._ask(partial(Twin.why, job_id=job_id), None, [job_id])

    async def what_if(self, suppose: Suppose, config: TwinConfig | None = None) -> WhatIf:
        """What would be if something were done now: on the same futures with and without it.

        Raises
        ------
        QuartermasterError
            If it could not be done.
        """
        cast = None if suppose.bundle is None else self._cast_of_bundle(suppose.bundle)
        return await self._ask(partial(Twin.what_if, suppose=suppose, cast=cast), config)

    def _cast_of_bundle(self, bundle: str) -> Cast:
        """Who plays in the place of a bundle that is tried, or in charge."""
        policy = self._cycle.policy
        learned = policy.understudy_of(bundle) if isinstance(policy, Foreseen) else None
        if learned is None:
            raise ConfigurationError(
                f"what-if: unknown policy '{bundle}': it is no rule, and no bundle that is tried "
                "or in charge and that futures can be played under; try it beside the rule first "
                f"(quartermaster policy shadow), or choose from {', '.join(RULES)}"
            )
        return Cast(cast_of(policy).rule, learned, learned.unlike)
