"""Route one request: discovery, balancing, breakers, retries, limits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from orchestrator.errors import (
    AttemptTimeoutError,
    ConfigurationError,
    NoHealthyEndpointError,
    RateLimitedError,
    RequestRejectedError,
    RetriesExhaustedError,
    UnknownServiceError,
    ValidationError,
)
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.mesh.policies import CircuitBreaker, LoadBalancer, RateLimiter, RetryPolicy
from orchestrator.mesh.specs import ProbeSpec, ServiceSpec
from orchestrator.ports import Clock

__all__ = [
    "Endpoint",
    "Probe",
    "ServiceCounts",
    "ServiceDiscovery",
    "ServiceMesh",
    "Transport",
    "within",
]


_T = TypeVar("_T")


async def within(
    clock: Clock,
    work: Awaitable[_T],
    limit_ms: float,
    late: Callable[[], Exception] | None = None,
) -> _T:
    """Await something for at most so long, on a clock.

    Parameters
    ----------
    clock : Clock
        Whose milliseconds they are.
    work : awaitable
        What to wait for; it is cancelled when time is up.
    limit_ms : float
        0: for ever.
    late : callable or None, optional
        Makes what is raised when time is up; None: a ``TimeoutError``. What ``work`` raises, a
        ``TimeoutError`` of its own too, is handed on as it is.

    Returns
    -------
    What ``work`` returns.

    Raises
    ------
    TimeoutError
        When time is up, unless ``late`` says otherwise.
    """
    if limit_ms <= 0:
        return await work
    task = asyncio.ensure_future(work)
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = task.cancel()

    timer = clock.call_at(clock.now_ms() + math.ceil(limit_ms), expire)
    try:
        return await task
    except (asyncio.CancelledError, Exception):  # work may answer its cancellation with an error
        if expired and not _leaving():
            if late is not None:
                raise late() from None
            raise TimeoutError(f"no answer within {limit_ms:g} ms") from None
        raise
    finally:
        timer.cancel()


def _leaving() -> bool:
    """Whether it is the caller who was cancelled, not what is awaited."""
    caller = asyncio.current_task()
    return caller is not None and caller.cancelling() > 0


def _require_name(subject: str, field: str, value: object) -> None:
    """Refuse what can name no service and no endpoint."""
    if not isinstance(value, str):
        raise ValidationError(subject, field, f"is {value!r:.80}", "give its name, a text")


@dataclass
class Endpoint:
    """One replica, by its address."""

    address: str
    healthy: bool = True
    draining: bool = False

    @property
    def routable(self) -> bool:
        """Whether new requests may go there."""
        return self.healthy and not self.draining


class ServiceDiscovery:
    """A register of services and their endpoints, in the order of their registration."""

    def __init__(self) -> None:
        self._services: dict[str, dict[str, Endpoint]] = {}

    @property
    def services(self) -> list[str]:
        """Names of the services."""
        return list(self._services)

    def declare(self, service: str) -> None:
        """Make a service known, with no endpoints yet; nothing happens if it is."""
        _require_name("ServiceDiscovery", "service", service)
        if not service:
            raise ValidationError("ServiceDiscovery", "service", "is empty", "give it a name")
        self._services.setdefault(service, {})

    def forget(self, service: str) -> None:
        """Take a service and its endpoints off the register."""
        self._of(service)
        del self._services[service]

    def register(self, service: str, address: str, *, healthy: bool = True) -> Endpoint:
        """Add an endpoint, or bring one that is there back from draining."""
        _require_name(f"service '{service}'", "address", address)
        if not address:
            subject = f"service '{service}'"
            raise ValidationError(subject, "address", "is empty", "give the endpoint's address")
        self.declare(service)
        endpoint = Endpoint(address, healthy)
        self._services[service][address] = endpoint
        return endpoint

    def deregister(self, service: str, address: str) -> None:
        """Take an endpoint off the register."""
        self.endpoint(service, address)
        del self._services[service][address]

    def drain(self, service: str, address: str) -> None:
        """Send an endpoint no new requests; those that it has may finish."""
        self.endpoint(service, address).draining = True

    def set_health(self, service: str, address: str, healthy: bool) -> None:
        """Note whether an endpoint is well."""
        self.endpoint(service, address).healthy = healthy

    def knows(self, service: str, address: str) -> bool:
        """Whether there is such an endpoint."""
        _require_name("ServiceDiscovery", "service", service)
        _require_name(f"service '{service}'", "address", address)
        return address in self._services.get(service, {})

    def endpoint(self, service: str, address: str) -> Endpoint:
        """Look up one endpoint.

        Raises
        ------
        UnknownServiceError
            When there is no such service, or no such endpoint.
        """
        endpoints = self._of(service)
        _require_name(f"service '{service}'", "address", address)
        if address not in endpoints:
            raise UnknownServiceError(address, list(endpoints))
        return endpoints[address]

    def endpoints(self, service: str) -> list[Endpoint]:
        """All endpoints of a service, sick and draining ones too."""
        return list(self._of(service).values())

    def lookup(self, service: str) -> list[str]:
        """Addresses of a service's endpoints that are well and not draining.

        Raises
        ------
        UnknownServiceError
            When there is no such service.
        """
        return [e.address for e in self._of(service).values() if e.routable]

    def _of(self, service: str) -> dict[str, Endpoint]:
        _require_name("ServiceDiscovery", "service", service)
        if service not in self._services:
            raise UnknownServiceError(service, self.services)
        return self._services[service]


Transport: TypeAlias = Callable[[str, Any], Awaitable[Any]]
"""Carries a request to the endpoint at an address and returns its answer, or raises."""


@dataclass
class ServiceCounts:
    """What became of a service's requests; the names are those of the simulator's totals.

    ``offered + retried == shed + failed + served`` once nothing is in flight, as long as nothing
    was cancelled: ``failed`` and ``served`` count attempts, the others requests. ``within`` counts
    answers that came within the objective of the request's arrival, earlier attempts included; an
    attempt whose caller gave up has failed if it had waited for longer than answers take.
    """

    offered: int = 0
    shed: int = 0
    retried: int = 0
    failed: int = 0
    served: int = 0
    within: int = 0


Probe: TypeAlias = Callable[[str], Awaitable[object] | object]
"""Asks the endpoint at an address whether it is well: returns if so, raises or hangs if not."""


class _Service:
    """A service's rules and the state of its request path."""

    def __init__(self, spec: ServiceSpec, now_ms: int, seed: int) -> None:
        self.spec = spec
        self.limiter = RateLimiter(spec.limit, now_ms)
        self.retry = RetryPolicy(spec.retry, now_ms, seed)
        self.balancer = LoadBalancer(seed=seed)
        self.breakers: dict[str, CircuitBreaker] = {}
        self.counts = ServiceCounts()

    def breaker(self, address: str, now_ms: int) -> CircuitBreaker:
        _require_name(f"service '{self.spec.name}'", "address", address)
        if address not in self.breakers:
            self.breakers[address] = CircuitBreaker(self.spec.breaker, now_ms)
        return self.breakers[address]

    def patience_ms(self, now_ms: int) -> float:
        """How long a request may wait before its caller's leaving tells against the endpoint.

        What answers take of late, and at least what they should or did take.
        """
        was_ms = self.balancer.typical_ms()
        is_ms = self.balancer.typical_ms(now_ms)
        if was_ms is None or is_ms is None:
            return self.spec.service_ms
        return max(is_ms, min(was_ms, self.spec.service_ms))


@dataclass
class _Attempt:
    """A request at one endpoint."""

    address: str
    breaker: CircuitBreaker
    generation: int
    arrival_ms: int
    begin_ms: int


class ServiceMesh:
    """Discovery, load balancing, circuit breaking, retries and rate limits of all services.

    Parameters
    ----------
    clock : Clock
        Time.
    transport : callable or None, optional
        Carries requests, unless :meth:`route` is given another one.
    discovery : ServiceDiscovery or None, optional
        The register to use.
    seed : int, optional
        Of the balancers' draws and the waits between attempts.
    probe : callable or None, optional
        Asks an endpoint whether it is well; None: a :class:`HealthCheck` through the transport.
    probing : ProbeSpec or None, optional
        How often a :class:`HealthProber` does that; None: as often as by default.
    """

    def __init__(
        self,
        clock: Clock,
        transport: Transport | None = None,
        *,
        discovery: ServiceDiscovery | None = None,
        seed: int = 0,
        probe: Probe | None = None,
        probing: ProbeSpec | None = None,
    ) -> None:
        self._clock = clock
        self._transport = transport
        self.probe = probe
        self.probing = probing if probing is not None else ProbeSpec()
        self._seed = seed
        self._services: dict[str, _Service] = {}
        self._listeners: list[Callable[[str, ServiceSpec | None], None]] = []
        self.discovery = discovery if discovery is not None else ServiceDiscovery()

    @property
    def services(self) -> list[str]:
        """Names of the services that were added."""
        return list(self._services)

    @property
    def transport(self) -> Transport | None:
        """What carries requests that bring no transport of their own."""
        return self._transport

    def fall_back(self, transport: Transport, probe: Probe) -> None:
        """Carry requests and ask endpoints like this, if nobody said how requests are carried."""
        if self._transport is None:
            self._transport = transport
            self.probe = probe if self.probe is None else self.probe

    def subscribe(self, listener: Callable[[str, ServiceSpec | None], None]) -> None:
        """Have a listener told of services that get rules, or are removed (None)."""
        self._listeners.append(listener)

    def add_service(self, spec: ServiceSpec) -> None:
        """Make a service known, or give it new rules, with which its request path begins anew."""
        if not isinstance(spec, ServiceSpec):
            remedy = "give a ServiceSpec"
            raise ValidationError("ServiceMesh", "spec", f"is {spec!r:.80}", remedy)
        now_ms = self._clock.now_ms()
        self._services[spec.name] = _Service(spec, now_ms, self._seed + len(self._services))
        self.discovery.declare(spec.name)
        for listener in self._listeners:
            listener(spec.name, spec)

    def remove_service(self, service: str) -> None:
        """Forget a service and its endpoints."""
        self._of(service)
        del self._services[service]
        self.discovery.forget(service)
        for listener in self._listeners:
            listener(service, None)

    def register(self, service: str, address: str, *, healthy: bool = True) -> None:
        """A replica has started: it gets requests from now on, and begins with a clean slate."""
        own = self._of(service)
        self.discovery.register(service, address, healthy=healthy)
        own.breakers.pop(address, None)
        own.balancer.forget(address)

    def drain(self, service: str, address: str) -> None:
        """Send a replica no new requests."""
        self.discovery.drain(service, address)

    def drained(self, service: str, address: str) -> bool:
        """Whether a replica has no requests left to answer."""
        _require_name(f"service '{service}'", "address", address)
        return self._of(service).balancer.in_flight(address) == 0

    def deregister(self, service: str, address: str) -> None:
        """A replica has gone."""
        own = self._of(service)
        self.discovery.deregister(service, address)
        own.breakers.pop(address, None)
        own.balancer.forget(address)

    def spec(self, service: str) -> ServiceSpec:
        """What a service is."""
        return self._of(service).spec

    def counts(self, service: str) -> ServiceCounts:
        """What became of a service's requests so far."""
        return self._of(service).counts

    def latency_ms(self, service: str) -> float | None:
        """What its endpoints' answers take of late, ms, as it counts now; None: there were none."""
        return self._of(service).balancer.typical_ms(self._clock.now_ms())

    def breaker_mode(self, service: str, address: str) -> BreakerMode:
        """Whether requests reach an endpoint."""
        return self._of(service).breaker(address, self._clock.now_ms()).mode

    def shut_out(self, service: str, address: str) -> None:
        """Something else than a request has found an endpoint sick: its breaker opens."""
        now_ms = self._clock.now_ms()
        self._of(service).breaker(address, now_ms).trip(now_ms)

    def let_in(self, service: str, address: str) -> None:
        """It is well again: its breaker closes, unless requests had opened it."""
        now_ms = self._clock.now_ms()
        self._of(service).breaker(address, now_ms).recover(now_ms)

    def discover(self, service: str) -> list[str]:
        """Addresses that requests may go to now: well, not draining, not shut out.

        Raises
        ------
        UnknownServiceError
            When there is no such service.
        """
        own = self._of(service)
        now_ms = self._clock.now_ms()
        addresses = self.discovery.lookup(service)
        return [a for a in addresses if own.breaker(a, now_ms).would_admit(now_ms)]

    async def route(self, service: str, request: Any, transport: Transport | None = None) -> Any:
        """Get a request to an endpoint that answers it.

        A caller who gives up (is cancelled, by ``asyncio.wait_for`` for example) after longer than
        answers take tells the endpoint's breaker of a failure; sooner, it says nothing.

        Parameters
        ----------
        service : str
            The service.
        request : object
            Handed to the transport as it is.
        transport : callable or None, optional
            Instead of the mesh's own. An exception that it raises is a failure of the endpoint,
            except :class:`RequestRejectedError`, which is handed on.

        Returns
        -------
        object
            The answer.

        Raises
        ------
        UnknownServiceError
            When there is no such service.
        RateLimitedError
            When it gets more requests than its limit; no endpoint has seen this one.
        NoHealthyEndpointError
            When no endpoint may be asked.
        RetriesExhaustedError
            When the last attempt has failed, or the retry budget is spent.
        """
        own = self._of(service)
        carry = transport if transport is not None else self._transport
        if carry is None:
            problem = "ServiceMesh.route: no transport; give one here or to ServiceMesh()"
            raise ConfigurationError(problem)
        own.counts.offered += 1
        arrival_ms = self._clock.now_ms()
        if not own.limiter.allow(arrival_ms):
            own.counts.shed += 1
            limit = own.spec.limit.rate_rps
            raise RateLimitedError(service, f"more than {limit:g} requests/s", "ask later")
        own.retry.earn(arrival_ms)
        failed_at: list[str] = []
        while True:
            address = self._pick(own, failed_at)
            try:
                return await self._ask(own, self._begin(own, address, arrival_ms), request, carry)
            except RequestRejectedError:
                raise
            except Exception as error:  # any failure of an endpoint is worth another attempt
                failed_at.append(address)
                if len(failed_at) >= own.retry.attempts or not own.retry.spend():
                    raise self._exhausted(own, failed_at, error) from error
            own.counts.retried += 1
            wait_ms = own.retry.backoff_ms(len(failed_at) - 1)
            await self._clock.sleep_until(self._clock.now_ms() + wait_ms)

    def _pick(self, own: _Service, failed_at: list[str]) -> str:
        """Choose an endpoint, one that has not failed this request if there is any."""
        addresses = self.discovery.lookup(own.spec.name)
        fresh = [a for a in addresses if a not in failed_at] if failed_at else addresses
        now_ms = self._clock.now_ms()
        for candidates in (fresh, addresses):
            if not candidates:
                continue
            for address in own.balancer.choose(candidates, now_ms):
                if own.breaker(address, now_ms).admit(now_ms):
                    return address
            rest = [a for a in candidates if own.breaker(a, now_ms).would_admit(now_ms)]
            if rest:
                address = own.balancer.choose(rest, now_ms)[0]
                own.breaker(address, now_ms).admit(now_ms)
                return address
        own.counts.failed += 1
        there = len(self.discovery.endpoints(own.spec.name))
        problem = f"none of its {there} endpoints may get requests"
        raise NoHealthyEndpointError(own.spec.name, problem, "scale it up or see to their health")

    def _begin(self, own: _Service, address: str, arrival_ms: int) -> _Attempt:
        """Note that a request goes to an endpoint."""
        now_ms = self._clock.now_ms()
        breaker = own.breaker(address, now_ms)
        own.balancer.begin(address)
        return _Attempt(address, breaker, breaker.generation, arrival_ms, now_ms)

    async def _ask(self, own: _Service, attempt: _Attempt, request: Any, carry: Transport) -> Any:
        """Send a request to one endpoint, and note how it went."""
        address = attempt.address

        def late() -> Exception:
            problem = f"'{address}' did not answer within {own.spec.timeout_ms:g} ms"
            remedy = "raise its timeout_ms, or see to its health"
            return AttemptTimeoutError(own.spec.name, problem, remedy)

        try:
            answer = await within(self._clock, carry(address, request), own.spec.timeout_ms, late)
        except asyncio.CancelledError as error:
            if _leaving():
                self._left(own, attempt)
                raise
            self._note(own, attempt, good=False)
            raise ConnectionError(f"'{address}' cancelled the request") from error
        except RequestRejectedError:
            self._note(own, attempt, good=True)
            raise
        except Exception:
            self._note(own, attempt, good=False)
            raise
        self._note(own, attempt, good=True)
        return answer

    def _left(self, own: _Service, attempt: _Attempt) -> None:
        """Note that the caller waits no more: a failure if it has waited for long."""
        now_ms = self._clock.now_ms()
        if own.breakers.get(attempt.address) is attempt.breaker:
            own.balancer.give_up(attempt.address)
        if now_ms - attempt.begin_ms > own.patience_ms(now_ms):
            attempt.breaker.record(now_ms, False, attempt.generation)
            own.counts.failed += 1
        else:
            attempt.breaker.give_up(attempt.generation)

    def _note(self, own: _Service, attempt: _Attempt, *, good: bool) -> None:
        now_ms = self._clock.now_ms()
        attempt.breaker.record(now_ms, good, attempt.generation)
        if own.breakers.get(attempt.address) is attempt.breaker:  # it has not started anew since
            took_ms = now_ms - attempt.begin_ms
            own.balancer.end(attempt.address, now_ms, took_ms, good=good)
        if good:
            own.counts.served += 1
            own.counts.within += now_ms - attempt.arrival_ms <= own.spec.objective_ms
        else:
            own.counts.failed += 1

    @staticmethod
    def _exhausted(own: _Service, failed_at: list[str], error: Exception) -> RetriesExhaustedError:
        tried = ", ".join(failed_at)
        spent = len(failed_at) < own.retry.attempts
        why = "and its retry budget is spent" if spent else "the last it may have"
        problem = f"{len(failed_at)} attempts failed ({tried}), {why}: {error}"
        return RetriesExhaustedError(own.spec.name, problem, "see to its endpoints, or ask later")

    def _of(self, service: str) -> _Service:
        _require_name("ServiceMesh", "service", service)
        if service not in self._services:
            raise UnknownServiceError(service, self.services)
        return self._services[service]
