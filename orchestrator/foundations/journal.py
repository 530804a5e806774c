"""The way into a cluster: first the log, then the engine, in the log's order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from orchestrator.engine import Engine, Outcome
from orchestrator.errors import QuartermasterError
from orchestrator.messages import Command, Entry, Event
from orchestrator.ports import Clock, ConsensusEngine

__all__ = ["Journal"]

_log = logging.getLogger(__name__)


class Journal:
    """Applies a consensus log to an engine.

    Making one replays what the log holds: the effects of these entries were carried out when they
    were written.

    Parameters
    ----------
    consensus : ConsensusEngine
        The log.
    engine : Engine
        Who applies it, and nobody else does.
    clock : Clock
        Stamps new entries.
    carry_out : callable
        Told of every outcome of a new entry, in order, as soon as it is applied.
    observe : callable or None, optional
        Told of every outcome, replayed ones included, before that: for what is kept in memory
        only.
    """

    def __init__(
        self,
        consensus: ConsensusEngine,
        engine: Engine,
        clock: Clock,
        carry_out: Callable[[Outcome], None],
        observe: Callable[[Outcome], None] | None = None,
    ) -> None:
        self._consensus = consensus
        self._engine = engine
        self._clock = clock
        self._carry_out = carry_out
        self._observe = observe
        self._lock = asyncio.Lock()
        self.applied = 0
        for entry in consensus.entries():
            self._apply(entry, engine.handle, lambda outcome: None)

    async def propose(self, body: Command | Event) -> Outcome:
        """Log and apply; what came of it.

        Raises
        ------
        QuartermasterError
            If it makes no sense. It is not even logged if that is clear beforehand.
        """
        async with self._lock:
            self._engine.check(body)
            time_ms = max(self._clock.now_ms(), self._engine.now_ms)
            index = await self._consensus.append(Entry(time_ms, body))
            first, outcomes = self.applied, []
            for at, entry in enumerate(self._consensus.entries(first), first):
                # Only what comes next is still as it was when it was checked.
                checked = at == index == first
                apply = self._engine.apply if checked else self._engine.handle
                outcomes.append(self._apply(entry, apply, self._carry_out))
            mine = outcomes[index - first]
        if isinstance(mine, QuartermasterError):
            raise mine
        return mine

    def _apply(
        self,
        entry: Entry,
        apply: Callable[[Entry], Outcome],
        carry_out: Callable[[Outcome], None],
    ) -> Outcome | QuartermasterError:
        """Apply the next entry. One that is refused is refused alike by every replica."""
        try:
            outcome = apply(entry)
        except QuartermasterError as error:
            _log.info("entry %d of the log was refused: %s", self.applied, error)
            self.applied += 1
            return error
        self.applied += 1
        if self._observe is not None:
            self._observe(outcome)
        carry_out(outcome)
        return outcome
