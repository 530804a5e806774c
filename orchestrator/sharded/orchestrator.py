"""A member of a sharded cluster: leads the shards that it holds, and says who leads the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.clock import WallClock
from orchestrator.errors import NotLeaderError, NotOwnerError, ValidationError
from orchestrator.foundations.shards import LeasedShards, Tenure
from orchestrator.live.cycle import load_kernels
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import Clock
from orchestrator.scheduling.rules import policy_of
from orchestrator.sharded.status import merged
from orchestrator.types import JobSpec, NodeSpec

__all__ = ["OpenShard", "ShardedOrchestrator"]


_log = logging.getLogger(__name__)


OpenShard: TypeAlias = Callable[[str], AbstractAsyncContextManager[InfrastructureOrchestrator]]
"""Opens a shard by its name: its log, its runtime, and an orchestrator on them; closes them."""


@dataclass(frozen=True)
class _Led:
    """A shard that is led here."""

    tenure: Tenure
    cluster: InfrastructureOrchestrator


class ShardedOrchestrator:
    """Runs the shards of a cluster that fall to this member.

    Every job and every node belongs to one shard by its id, for ever; each shard is a cluster of
    its own, with its own log, that one member at a time leads. When a member comes, it takes over
    its part of the shards; when one leaves or dies, the others take over what it led, from the
    logs. What is asked of a shard that another member leads is refused with a
    :class:`NotOwnerError`, which says whom to ask.

    Parameters
    ----------
    shards : LeasedShards
        This member, and who holds what.
    open_shard : callable
        Takes a shard's name; returns an asynchronous context manager that is entered when the shard
        falls to this member and gives its :class:`InfrastructureOrchestrator`, not started yet.
        When it is left, nothing of the shard may act here any more: close its runtime and its log.
        Another member, on another machine perhaps, has to open the same log, and find the agents.
    clock : Clock or None
        Time; None: real time. It is that of ``shards``.

    Notes
    -----
    A job runs on the nodes of its own shard. Have far more nodes than shards; which shard an id
    belongs to, ``shards.owner`` says beforehand.
    """

    def __init__(
        self, shards: LeasedShards, open_shard: OpenShard, *, clock: Clock | None = None
    ) -> None:
        self.shards = shards
        self._open = open_shard
        self._clock: Clock = WallClock() if clock is None else clock
        self._led: dict[str, _Led] = {}
        self._changed = asyncio.Event()

    # --- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the cluster; shards come by and by: see :meth:`settled`."""
        if isinstance(self._clock, WallClock):
            # Compiling or loading takes longer than a lease may last.
            await asyncio.to_thread(load_kernels, policy_of(None))
        self.shards.start(self._occupy)

    async def stop(self) -> None:
        """Leave the cluster: others take the shards over at once."""
        await self.shards.leave()

    @asynccontextmanager
    async def _occupy(self, tenure: Tenure) -> AsyncIterator[None]:
        """Lead a shard, as long as it is held."""
        shard = tenure.shard
        try:
            async with self._open(shard) as cluster:
                cluster.lead_by(tenure.token, tenure.require)
                try:
                    await cluster.start()
                    self._led[shard] = _Led(tenure, cluster)
                    self._tell()
                    _log.info("member '%s' leads '%s'", self.shards.member, shard)
                    yield
                finally:
                    self._led.pop(shard, None)
                    await cluster.stop()
                    _log.info("member '%s' leads '%s' no more", self.shards.member, shard)
        finally:
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def led(self) -> tuple[str, ...]:
        """Shards that are led here now, in alphabetical order."""
        return tuple(sorted(shard for shard, led in self._led.items() if led.tenure.holds))

    # --- whom to ask ---------------------------------------------------------------------------

    def cluster_of(self, key: str) -> InfrastructureOrchestrator:
        """The orchestrator of the shard that a job or node belongs to.

        Raises
        ------
        NotOwnerError
            If it is not led here; says who leads it.
        """
        shard = self.shards.owner(key)
        led = self._led.get(shard)
        if led is None or not led.tenure.holds:
            raise self.shards.not_owner(shard)
        return led.cluster

    async def _ready(self, key: str) -> InfrastructureOrchestrator:
        """The same; of a shard that is just being opened here, when it is open."""
        shard, until_ms = self.shards.owner(key), self._clock.now_ms() + self.shards.ttl_ms
        timer = self._clock.call_at(until_ms, self._tell)
        try:
            while self._is_opening(shard) and self._clock.now_ms() < until_ms:
                await self._changed.wait()
        finally:
            timer.cancel()
        return self.cluster_of(key)

    def _is_opening(self, shard: str) -> bool:
        return shard not in self._led and self.shards.tenure(shard) is not None

    async def settled(self, timeout_s: float = 60.0) -> None:
        """Wait until each shard is held by a member that is there, and led where it is ours.

        Raises
        ------
        TimeoutError
            If it takes too long.
        """
        until_ms = self._clock.now_ms() + round(1000 * timeout_s)
        step_ms = max(self.shards.ttl_ms // 20, 1)
        while not self._is_settled():
            now_ms = self._clock.now_ms()
            if now_ms >= until_ms:
                raise TimeoutError(
                    f"after {timeout_s:g} s some of the shards are not led; held: "
                    f"{self.shards.holders}, led here: {self.led}"
                )
            await self._clock.sleep_until(min(now_ms + step_ms, until_ms))

    def _is_settled(self) -> bool:
        holders, members = self.shards.holders, self.shards.members
        mine = {shard for shard, member in holders.items() if member == self.shards.member}
        held = all(holders.get(shard) in members for shard in self.shards.shards)
        return held and mine == set(self.led)

    @contextmanager
    def _asked(self, key: str) -> Iterator[None]:
        """Say who leads, should this member have lost a shard while it was asked."""
        try:
            yield
        except NotOwnerError:
            raise self.shards.not_owner(self.shards.owner(key)) from None
        except NotLeaderError as error:
            raise self.shards.not_owner(self.shards.owner(key)) from error

    async def _ask(
        self, key: str, act: Callable[[InfrastructureOrchestrator], Awaitable[Any]]
    ) -> Any:
        with self._asked(key):
            return await act(await self._ready(key))

    # --- jobs ----------------------------------------------------------------------------------

    async def submit_job(self, job: JobSpec) -> str:
        """Submit a job to its shard; its identity.

        Raises
        ------
        NotOwnerError
            If another member leads its shard.
        ValidationError, CapacityError
            See :meth:`InfrastructureOrchestrator.submit_job`; a job has to fit into its shard.
        """

        async def submit(cluster: InfrastructureOrchestrator) -> str:
            self._check_place(job, cluster)
            try:
                return await cluster.submit_job(job)
            except ValidationError as error:
                if error.field == "job_id":
                    raise
                remedy = f"{error.remedy}; of these count the ones in {self._where(job)}"
                told = ValidationError(error.subject, error.field, error.problem, remedy)
                raise told from error

        return str(await self._ask(job.job_id, submit))

    def _where(self, job: JobSpec) -> str:
        return f"shard '{self.shards.owner(job.job_id)}', to which its id belongs"

    def _check_place(self, job: JobSpec, cluster: InfrastructureOrchestrator) -> None:
        """Raise if a job would wait for ever, on a shard that has nothing."""
        if not cluster.nodes and not cluster.engine.settings.awaits_order:
            raise ValidationError(
                f"JobSpec '{job.job_id}'",
                "job_id",
                f"belongs to shard '{self.shards.owner(job.job_id)}', which has no nodes",
                "register nodes first whose ids belong to it, or give the job another id",
            )

    async def preempt_job(self, job_id: str, reason: str) -> bool:
        """See :meth:`InfrastructureOrchestrator.preempt_job`."""
        return bool(await self._ask(job_id, lambda c: c.preempt_job(job_id, reason)))

    async def scale_job(self, job_id: str, new_worker_count: int) -> bool:
        """See :meth:`InfrastructureOrchestrator.scale_job`."""
        return bool(await self._ask(job_id, lambda c: c.scale_job(job_id, new_worker_count)))

    async def cancel_job(self, job_id: str, reason: str = "") -> bool:
        """See :meth:`InfrastructureOrchestrator.cancel_job`."""
        return bool(await self._ask(job_id, lambda c: c.cancel_job(job_id, reason)))

    def get_job_status(self, job_id: str) -> dict[str, Any]:
        """See :meth:`InfrastructureOrchestrator.get_job_status`; of jobs whose shard is here."""
        return self.cluster_of(job_id).get_job_status(job_id)

    # --- nodes ---------------------------------------------------------------------------------

    async def register_node(self, node: NodeSpec) -> bool:
        """See :meth:`InfrastructureOrchestrator.register_node`."""
        return bool(await self._ask(node.node_id, lambda c: c.register_node(node)))

    async def decommission_node(self, node_id: str, drain: bool = True) -> bool:
        """See :meth:`InfrastructureOrchestrator.decommission_node`."""
        return bool(await self._ask(node_id, lambda c: c.decommission_node(node_id, drain)))

    async def undrain_node(self, node_id: str) -> bool:
        """See :meth:`InfrastructureOrchestrator.undrain_node`."""
        return bool(await self._ask(node_id, lambda c: c.undrain_node(node_id)))

    async def handle_node_failure(self, node_id: str) -> dict[str, Any]:
        """See :meth:`InfrastructureOrchestrator.handle_node_failure`."""
        found: dict[str, Any] = await self._ask(node_id, lambda c: c.handle_node_failure(node_id))
        return found

    async def handle_node_recovery(self, node_id: str) -> bool:
        """See :meth:`InfrastructureOrchestrator.handle_node_recovery`."""
        return bool(await self._ask(node_id, lambda c: c.handle_node_recovery(node_id)))

    # --- all that is here ----------------------------------------------------------------------

    async def schedule(self) -> list[tuple[str, str]]:
        """Run a scheduling cycle in each shard that is led here; what was started, (job, node)."""
        started: list[tuple[str, str]] = []
        for shard in self.led:
            led = self._led.get(shard)
            if led is not None:
                try:
                    started += await led.cluster.schedule()
                except NotLeaderError:
                    _log.info("shard '%s' was lost before its cycle", shard)
        return started

    def get_cluster_status(self) -> dict[str, Any]:
        """What is going on in the shards that are led here, and who leads the others.

        Returns
        -------
        dict
            ``member``, ``members`` (addresses, by name), ``shards`` (by shard: who holds it, None:
            nobody, and whether it is led here), ``by_shard`` (of each that is led here, what
            :meth:`InfrastructureOrchestrator.get_cluster_status` says), and what can be added up of
            these: see :func:`orchestrator.sharded.status.merged`.
        """
        here = {shard: self._led[shard].cluster.get_cluster_status() for shard in self.led}
        holders = self.shards.holders
        return {
            "member": self.shards.member,
            "members": dict(self.shards.members),
            "shards": {
                shard: {"owner": holders.get(shard), "here": shard in here}
                for shard in self.shards.shards
            },
            "errors": self.shards.errors,
            **merged(here.values()),
            "by_shard": here,
        }
