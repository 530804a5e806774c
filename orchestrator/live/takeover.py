"""Taking over a log: what was logged and not done, who is lost, and which settings are new.

Starting up, a restart and a standby that takes over are one code path: observe first, act second.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from orchestrator.engine.engine import Engine, Outcome
from orchestrator.engine.records import check_quotas
from orchestrator.errors import CapacityError, ValidationError
from orchestrator.kernels.state.codes import JobCode
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import (
    Command,
    Effect,
    Establish,
    Register,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    StartJob,
    StopJob,
    StopReason,
    WorkersLost,
)
from orchestrator.ports import Renewing, Runtime
from orchestrator.semantics import Semantics
from orchestrator.types import NodeSpec, TenantSpec

__all__ = ["Wanted", "lost_workers", "observe", "unfinished"]


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """Settings that an orchestrator was made with; None or empty: those of the log.

    Parameters
    ----------
    shape : ClusterShape or None
        Where the log's is larger, that holds.
    nodes : tuple of NodeSpec
    semantics : Semantics or None
    tenants : tuple of TenantSpec
    awaits_order : bool
        Whether nodes can be ordered: quotas may then be more than those that there are.
    """

    shape: ClusterShape | None
    nodes: tuple[NodeSpec, ...]
    semantics: Semantics | None
    tenants: tuple[TenantSpec, ...]
    awaits_order: bool = False

    @property
    def rules(self) -> Semantics | None:
        """The semantics, as such, though they may be an environment's config, which is more."""
        given = self.semantics
        if given is None:
            return None
        return Semantics(**{field.name: getattr(given, field.name) for field in fields(Semantics)})

    def founding(self, shape: ClusterShape, seed: int) -> Establish:
        """With what a cluster begins that is not there yet; ``shape``: where none is wanted."""
        return Establish(
            self.shape or shape,
            self.nodes,
            self.rules or Semantics(),
            self.tenants,
            int(seed),
            self.awaits_order,
        )

    def settings(self, engine: Engine) -> Establish:
        """What a cluster that is there is to live by from now on."""
        now = engine.settings
        tenants = self.tenants or now.tenants
        return replace(
            now,
            shape=engine.grown(self.shape) if self.shape else now.shape,
            semantics=self.rules or now.semantics,
            tenants=tenants,
            awaits_order=now.awaits_order if tenants == now.tenants else self.awaits_order,
        )

    def first_settings(self, engine: Engine) -> Establish:
        """The same before the new nodes are there, which its quotas may need."""
        now = engine.settings
        return replace(self.settings(engine), tenants=now.tenants, awaits_order=now.awaits_order)

    def check(self, engine: Engine) -> None:
        """Raise a :class:`ValidationError` if the cluster of the log cannot have these."""
        settings = self.settings(engine)
        engine.check(self.first_settings(engine))
        if settings.tenants != engine.settings.tenants:
            nodes = [*engine.nodes.specs.values(), *self.newcomers(engine)]
            check_quotas(settings.tenants, nodes, awaits_order=settings.awaits_order)

    async def settle(
        self, engine: Engine, propose: Callable[[Command], Awaitable[Outcome]], *, known: bool
    ) -> None:
        """Have a cluster live by these; ``known``: its log holds settings."""
        settings, first = self.settings(engine), self.first_settings(engine)
        if not known or first != engine.settings:
            await propose(first)
        for spec in self.newcomers(engine):
            try:
                await propose(Register(spec))
            except (ValidationError, CapacityError) as error:
                _log.warning("node '%s' is not part of the cluster: %s", spec.node_id, error)
        if settings != engine.settings:
            await propose(settings)

    def newcomers(self, engine: Engine) -> list[NodeSpec]:
        """Nodes that the cluster has never had; one that it knows stays what it is in the log."""
        new = []
        for spec in self.nodes:
            if spec.node_id not in engine.nodes.index:
                new.append(spec)
            elif engine.nodes.specs.get(spec.node_id, spec) != spec:
                _log.warning(
                    "node '%s' is given with another description than it has in the log, which "
                    "holds; decommission the node and register it anew to change it",
                    spec.node_id,
                )
        return new


def observe(runtime: Runtime, engine: Engine) -> Mapping[str, int]:
    """Jobs whose workers exist, and their runs; a runtime that can is told what they are."""
    observed = runtime.observe()
    if isinstance(runtime, Renewing):
        specs = engine.jobs.specs
        runtime.recall({job_id: specs[job_id] for job_id in observed if job_id in specs})
    return observed


def unfinished(
    engine: Engine, observed: Mapping[str, int], doubtful: Iterable[Outcome]
) -> list[Effect]:
    """Effects to be carried out, in order: those that were logged and, as it seems, not done.

    Parameters
    ----------
    engine : Engine
        What should be.
    observed : Mapping of str to int
        What is: jobs whose workers exist, and their runs.
    doubtful : iterable of Outcome
        Those whose effects may not all have been carried out.

    Returns
    -------
    list of Effect
        Runs that should not exist are stopped, whoever has started them.
    """
    placed, there = engine.placed(), dict(observed)
    found: list[Effect] = []
    for effect in (effect for outcome in doubtful for effect in outcome.effects):
        if isinstance(effect, ReleaseNode):
            if effect.node_id not in engine.nodes.specs:
                found.append(effect)
        elif isinstance(effect, StopJob):
            if there.get(effect.job_id) == effect.run != placed.get(effect.job_id):
                found.append(effect)
                del there[effect.job_id]
        elif placed.get(effect.job_id) == effect.run and _is_missing(engine, there, effect):
            found.append(effect)
    unknown = [(job_id, run) for job_id, run in there.items() if placed.get(job_id) != run]
    stops = [StopJob(job_id, run, StopReason.UNEXPECTED, 0) for job_id, run in unknown]
    return [*stops, *found]


def _is_missing(
    engine: Engine, there: Mapping[str, int], effect: StartJob | RegroupJob | SaveCheckpoint
) -> bool:
    """Whether an effect for the present run of a job has to be carried out, perhaps again."""
    if isinstance(effect, StartJob):
        return there.get(effect.job_id) != effect.run
    saves = engine.jobs.code(effect.job_id) == JobCode.CHECKPOINTING
    return saves or isinstance(effect, RegroupJob)


def lost_workers(
    engine: Engine, observed: Mapping[str, int], sent: Collection[Effect], seen_ms: int
) -> Sequence[WorkersLost]:
    """Runs that were started and are gone; nothing is known of them after ``seen_ms``."""
    starts = {(e.job_id, e.run) for e in sent if isinstance(e, StartJob)}
    return [
        WorkersLost(job_id, run, "not found at start-up", seen_ms)
        for job_id, run in engine.placed().items()
        if observed.get(job_id) != run and (job_id, run) not in starts
    ]
