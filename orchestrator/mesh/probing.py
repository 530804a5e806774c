"""Active health checks: a backend that hangs is not found by waiting for its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from orchestrator.errors import ValidationError
from orchestrator.mesh.discovery import ServiceDiscovery
from orchestrator.mesh.timing import within
from orchestrator.ports import Clock, Timer

__all__ = ["HealthProber", "Probe", "ProbeSpec"]

Probe: TypeAlias = Callable[[str], Awaitable[object]]
"""Asks the endpoint at an address whether it is well: returns if so, raises or hangs if not."""


@dataclass(frozen=True)
class ProbeSpec:
    """How often endpoints are asked.

    Parameters
    ----------
    interval_ms, timeout_ms : int
        Time between two probes of an endpoint; within which one must be answered.
    failures, successes : int
        Probes in a row that make an endpoint count as sick, and as well again.

    The defaults find a backend that hangs within 15 + 15 + 20 = 50 ms.
    """

    interval_ms: int = 15
    timeout_ms: int = 20
    failures: int = 2
    successes: int = 2

    def __post_init__(self) -> None:
        """Refuse values that probe nothing."""
        for name in ("interval_ms", "timeout_ms", "failures", "successes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValidationError("ProbeSpec", name, f"is {value!r}", "it must be at least 1")


@dataclass
class _Record:
    """What an endpoint's last probes said."""

    failed: int = 0
    passed: int = 0
    open: set[asyncio.Task[None]] = field(default_factory=set)


class HealthProber:
    """Probes every endpoint of every service, and tells the register.

    Probes of one endpoint may overlap: the next one does not wait for one that hangs.

    Parameters
    ----------
    discovery : ServiceDiscovery
        The register.
    clock : Clock
        Time.
    probe : callable
        How to ask.
    spec : ProbeSpec, optional
        How often.
    """

    def __init__(
        self,
        discovery: ServiceDiscovery,
        clock: Clock,
        probe: Probe,
        spec: ProbeSpec | None = None,
    ) -> None:
        self._discovery = discovery
        self._clock = clock
        self._probe = probe
        self._spec = spec if spec is not None else ProbeSpec()
        self._records: dict[tuple[str, str], _Record] = {}
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to probe; nothing happens if it has begun."""
        if self._timer is None:
            self._timer = self._clock.call_at(self._clock.now_ms(), self._round)

    async def stop(self) -> None:
        """Stop probing, and give up the probes that are out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = [task for record in self._records.values() for task in record.open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._records.clear()

    def _round(self) -> None:
        """Send one probe to each endpoint, and set the time of the next ones."""
        self._timer = self._clock.call_at(
            self._clock.now_ms() + self._spec.interval_ms, self._round
        )
        there = {
            (service, endpoint.address)
            for service in self._discovery.services
            for endpoint in self._discovery.endpoints(service)
        }
        for gone in [key for key in self._records if key not in there]:
            for task in self._records.pop(gone).open:
                task.cancel()
        for key in sorted(there):
            record = self._records.setdefault(key, _Record())
            task = asyncio.ensure_future(self._ask(*key, record))
            record.open.add(task)
            task.add_done_callback(record.open.discard)

    async def _ask(self, service: str, address: str, record: _Record) -> None:
        try:
            await within(self._clock, self._probe(address), self._spec.timeout_ms)
        except Exception:  # whatever a probe raises means that the endpoint is not well
            record.failed, record.passed = record.failed + 1, 0
        else:
            record.failed, record.passed = 0, record.passed + 1
        if self._records.get((service, address)) is not record:
            return  # it left, or was replaced, meanwhile
        if record.failed >= self._spec.failures:
            self._discovery.set_health(service, address, False)
        elif record.passed >= self._spec.successes:
            self._discovery.set_health(service, address, True)
