"""Active probes: endpoints are asked whether they are well, so that no request has to find out.

What probes find out goes to the breakers, and nowhere else: neither the counts of requests nor the
averages that requests are balanced by know of them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Awaitable
from dataclasses import dataclass, field

from orchestrator.errors import RequestRejectedError
from orchestrator.mesh.attempts import AnsweredError, NobodyListensError
from orchestrator.mesh.discovery import Endpoint
from orchestrator.mesh.mesh import ServiceMesh
from orchestrator.ports import Clock, Timer

__all__ = ["HealthCheck", "HealthProber"]


_UNAVAILABLE = 503


_BATCH, _BATCHES = 16, 5  # probes that go out at once, if that takes no more parts of an interval


_TURNS = 4  # of the event loop, in which probes that wait for nothing are answered


_LOST_MS = 1000  # a timer that is so late went with its event loop


_UNANSWERED = 10  # health checks of a service, after which its transport is taken not to know them


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HealthCheck:
    """What a transport gets in place of a request where nobody gave a probe.

    It should answer it at once, with anything, if the endpoint is there and works. One that never
    answers any is not asked again.
    """


@dataclass(eq=False)
class _Record:
    """What an endpoint's last probes said."""

    service: str
    endpoint: Endpoint
    due_ms: int
    failed: int = 0
    passed: int = 0
    shut_out: bool = False
    open: dict[asyncio.Task[None], int] = field(default_factory=dict)  # and when they began


@dataclass
class _Watch:
    """A service that gets requests."""

    until_ms: float
    records: dict[str, _Record] = field(default_factory=dict)
    answered: bool = False  # some probe, ever
    unanswered: int = 0


class HealthProber:
    """Probes the endpoints of services that get requests, and tells their breakers.

    Probes of one endpoint may overlap: the next one does not wait for one that hangs. Silence is
    weaker evidence than an error, since whoever is overloaded is silent: at most half of a
    service's endpoints are shut out for it. Time in which the event loop was busy with something
    else does not count as silence.

    Parameters
    ----------
    mesh : ServiceMesh
        Whose endpoints, and who says how they are asked, and how often.
    clock : Clock
        Time.
    """

    def __init__(self, mesh: ServiceMesh, clock: Clock) -> None:
        self._mesh = mesh
        self._clock = clock
        self.spec = mesh.probing
        self._watched: dict[str, _Watch] = {}
        self._timer: Timer | None = None
        self._due_ms = 0  # of that timer
        self._survey_ms = 0  # when to look next who is there
        self._interval_ms = self.spec.interval_ms
        self._tick_ms = self.spec.interval_ms
        mesh.watch_failures(self._suspect)

    @property
    def can_probe(self) -> bool:
        """Whether there is a way to ask, and time to."""
        asks = self._mesh.probe is not None or self._mesh.transport is not None
        return asks and self.spec.interval_ms > 0

    def attend(self, service: str) -> None:
        """A service gets a request: its endpoints are probed now, and for some time to come."""
        self._watch(service, self._clock.now_ms() + self.spec.idle_ms)

    def start(self) -> None:
        """Probe all services that there are now, whether they get requests or not."""
        for service in self._mesh.services:
            self._watch(service, math.inf)

    async def stop(self) -> None:
        """Stop probing, and give up the probes that are out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        records = [r for watch in self._watched.values() for r in watch.records.values()]
        tasks = [task for record in records for task in record.open]
        self._watched.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(self, service: str, until_ms: float) -> None:
        watch = self._watched.setdefault(service, _Watch(until_ms))
        watch.until_ms = max(watch.until_ms, until_ms)
        now_ms = self._clock.now_ms()
        stands = self._timer is not None and now_ms < self._due_ms + _LOST_MS
        if not stands and self.can_probe and not self._is_deaf(watch):
            if self._timer is not None:
                self._timer.cancel()
            self._survey_ms = now_ms
            self._arm(now_ms)

    def _suspect(self, service: str, address: str) -> None:
        """A request has failed there: it is asked at once, unless it is being asked already."""
        watch = self._watched.get(service)
        record = None if watch is None or self._timer is None else watch.records.get(address)
        if record is not None and not record.open and not record.shut_out:
            self._send(record)

    def _is_deaf(self, watch: _Watch) -> bool:
        """Whether a service's transport knows no health checks."""
        return self._mesh.probe is None and not watch.answered and watch.unanswered >= _UNANSWERED

    def _arm(self, time_ms: int) -> None:
        self._due_ms = time_ms
        self._timer = self._clock.call_at(time_ms, self._tick)

    async def _tick(self) -> None:
        """Give up probes whose time is up, and send those that are due."""
        now_ms = self._clock.now_ms()
        self._expire(now_ms, now_ms - self._due_ms)
        if now_ms >= self._survey_ms:
            self._survey(now_ms)
        if not any(watch.records for watch in self._watched.values()):
            self._timer = None
            return
        self._arm(now_ms + self._tick_ms)
        sent = False
        for watch in list(self._watched.values()):
            for record in list(watch.records.values()):
                if record.due_ms <= now_ms:
                    due_ms = record.due_ms + self._interval_ms
                    record.due_ms = due_ms if due_ms > now_ms else now_ms + self._interval_ms
                    sent |= self._send(record)
        for _ in range(_TURNS if sent else 0):
            await asyncio.sleep(0)

    def _survey(self, now_ms: int) -> None:
        """See which endpoints there are to probe, and how often that can be done."""
        for service, watch in list(self._watched.items()):
            there = self._there(service) if watch.until_ms > now_ms else {}
            if self._is_deaf(watch):
                there = {}
            for address, record in list(watch.records.items()):
                if there.get(address) is not record.endpoint:  # or it has started anew
                    self._drop(watch, address)
            for address, endpoint in there.items():
                if address not in watch.records:
                    watch.records[address] = _Record(service, endpoint, now_ms)
            if service not in self._mesh.services:
                del self._watched[service]
        records = [r for watch in self._watched.values() for r in watch.records.values()]
        least_ms = math.ceil(1000 * len(records) / self.spec.most_per_s)
        self._interval_ms = max(self.spec.interval_ms, least_ms)
        parts = min(max(math.ceil(len(records) / _BATCH), 1), _BATCHES)
        self._tick_ms = max(self._interval_ms // parts, 1)
        for k, record in enumerate(records):
            if record.due_ms == now_ms:
                record.due_ms += k % parts * self._tick_ms
        self._survey_ms = now_ms + self._interval_ms

    def _there(self, service: str) -> dict[str, Endpoint]:
        """Endpoints that requests may be sent to, if they are well."""
        if service not in self._mesh.services:
            return {}
        found = self._mesh.discovery.endpoints(service)
        return {endpoint.address: endpoint for endpoint in found if endpoint.routable}

    def _drop(self, watch: _Watch, address: str) -> None:
        record = watch.records.pop(address)
        open_tasks, record.open = list(record.open), {}
        for task in open_tasks:
            task.cancel()

    def _send(self, record: _Record) -> bool:
        """Ask one endpoint; whether the answer has to be waited for."""
        try:
            answer = self._ask(record.endpoint.address)
        except Exception as error:
            self._judge(record, good=False, certain=_is_certain(error))
            return False
        if not inspect.isawaitable(answer):
            self._judge(record, good=True)
            return False
        task = asyncio.ensure_future(self._await(record, answer))
        record.open[task] = self._clock.now_ms()
        return True

    def _ask(self, address: str) -> Awaitable[object] | object:
        probe, carry = self._mesh.probe, self._mesh.transport
        if probe is not None:
            return probe(address)
        return carry(address, HealthCheck()) if carry is not None else None

    async def _await(self, record: _Record, answer: Awaitable[object]) -> None:
        good, certain, task = True, False, asyncio.current_task()
        try:
            await answer
        except RequestRejectedError:
            pass  # it is well enough to say so
        except Exception as error:  # whatever else a probe raises means that it is not well
            good, certain = False, _is_certain(error)
        finally:
            counts = task is not None and record.open.pop(task, None) is not None
        if counts:  # its time is not up, and the endpoint has not left
            self._judge(record, good=good, certain=certain)

    def _expire(self, now_ms: int, late_ms: int) -> None:
        """Give up probes that were not answered in time."""
        for watch in self._watched.values():
            for record in watch.records.values():
                for task, begin_ms in list(record.open.items()):
                    if 2 * late_ms > self._tick_ms:
                        record.open[task] = begin_ms + late_ms  # nobody could have heard it
                    elif now_ms - begin_ms >= self.spec.timeout_ms:
                        del record.open[task]
                        task.cancel()
                        self._judge(record, good=False, silent=True)

    def _judge(
        self, record: _Record, *, good: bool, silent: bool = False, certain: bool = False
    ) -> None:
        """Note how a probe went, and tell the breaker where that changes anything."""
        service, address = record.service, record.endpoint.address
        watch, register = self._watched.get(service), self._mesh.discovery
        there = service in self._mesh.services and register.knows(service, address)
        if watch is None or not there or register.endpoint(service, address) is not record.endpoint:
            return
        if good:
            watch.answered = True
            record.failed, record.passed = 0, record.passed + 1
            if record.passed == self.spec.successes:
                record.shut_out = False
                self._mesh.let_in(service, address)
            return
        record.failed, record.passed = record.failed + 1, 0
        watch.unanswered += not watch.answered
        known = watch.answered or self._mesh.probe is not None
        if known and (certain or record.failed >= self.spec.failures):
            out = sum(r.shut_out for r in watch.records.values() if r is not record)
            if silent and not record.shut_out and 2 * (out + 1) > len(watch.records):
                return
            if not record.shut_out:
                _log.warning("service '%s': probes find '%s' sick", service, address)
            record.shut_out = True
            self._mesh.shut_out(service, address)
        elif self._is_deaf(watch):
            _log.info("service '%s': its transport answers no HealthCheck", service)


def _is_certain(error: Exception) -> bool:
    """Whether one probe is enough: the endpoint says so itself, or is not there."""
    unwell = isinstance(error, AnsweredError) and error.answer.status == _UNAVAILABLE
    return unwell or isinstance(error, NobodyListensError)
