"""Route one request: discovery, balancing, breakers, retries, limits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from orchestrator.errors import (
    AttemptTimeoutError,
    ConfigurationError,
    DeadlineExceededError,
    NoHealthyEndpointError,
    RateLimitedError,
    RequestRejectedError,
    RetriesExhaustedError,
    UnknownServiceError,
    ValidationError,
)
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.mesh.attempts import (
    EndpointBusyError,
    NobodyListensError,
    is_leaving,
    repeats,
    within,
)
from orchestrator.mesh.discovery import ServiceDiscovery, require_name
from orchestrator.mesh.policies import (
    CircuitBreaker,
    Latencies,
    LoadBalancer,
    RateLimiter,
    RetryPolicy,
    TenantLimiter,
)
from orchestrator.mesh.specs import LimitSpec, ProbeSpec, RetrySpec, ServiceSpec
from orchestrator.ports import Clock
from orchestrator.worker.inference.http import HttpExchange, HttpRequest, HttpStream

__all__ = [
    "Probe",
    "ServiceCounts",
    "ServiceLoad",
    "ServiceMesh",
    "Transport",
    "load_request_path",
]


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


@dataclass(frozen=True)
class ServiceLoad:
    """What a service has to do.

    Parameters
    ----------
    open : int
        Requests that are not answered yet.
    latency_ms : float
        Its percentile of the response times since it was looked at last, ms; 0: there were none.
    breaker : BreakerMode
        Of the endpoint that is worst off: open, half-open or closed.
    """

    open: int
    latency_ms: float
    breaker: BreakerMode


Probe: TypeAlias = Callable[[str], Awaitable[object] | object]
"""Asks the endpoint at an address whether it is well: returns if so, raises or hangs if not."""


class _Service:
    """A service's rules and the state of its request path."""

    def __init__(self, spec: ServiceSpec, now_ms: int, seed: int) -> None:
        self.spec = spec
        self.limiter = RateLimiter(spec.limit, now_ms)
        self.tenants = TenantLimiter(spec.tenant_limit, dict(spec.tenant_limits))
        self.retry = RetryPolicy(spec.retry, now_ms, seed)
        self.balancer = LoadBalancer(seed=seed)
        self.breakers: dict[str, CircuitBreaker] = {}
        self.shut: set[str] = set()  # whose breakers are not closed
        self.counts = ServiceCounts()
        self.latencies = Latencies()

    def breaker(self, address: str, now_ms: int) -> CircuitBreaker:
        if type(address) is str and (found := self.breakers.get(address)) is not None:
            return found
        require_name(f"service '{self.spec.name}'", "address", address)
        if address not in self.breakers:
            watch = partial(self._note_mode, address)
            self.breakers[address] = CircuitBreaker(self.spec.breaker, now_ms, watch)
        return self.breakers[address]

    def _note_mode(self, address: str) -> None:
        breaker = self.breakers.get(address)
        if breaker is None or breaker.mode == BreakerMode.CLOSED:
            self.shut.discard(address)
        else:
            self.shut.add(address)

    def forget(self, address: str) -> None:
        """An endpoint has gone, or begins anew."""
        self.breakers.pop(address, None)
        self.shut.discard(address)
        self.balancer.forget(address)

    def panics(self, addresses: list[str], now_ms: int) -> bool:
        """Whether so many endpoints are shut out that none of them is."""
        out = [a for a in addresses if a in self.shut]
        out = [a for a in out if not self.breaker(a, now_ms).would_admit(now_ms)]
        return len(addresses) - len(out) < self.spec.panic * len(addresses)

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
    due_ms: float  # when its caller's time is up
    uploads: bool = False  # the caller is waited for: more of the request's body is to come

    async def watched(self, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The rest of the request's body, and who is waited for meanwhile."""
        async with aclosing(rest):
            self.uploads = True
            async for piece in rest:
                self.uploads = False  # until the endpoint has taken it
                yield piece
                self.uploads = True
        self.uploads = False


_NO_TRANSPORT = "ServiceMesh.route: no transport; give one here or to ServiceMesh()"


def _under(methods: tuple[str, ...], request: HttpRequest) -> HttpRequest:
    """A request of which it is known which methods may be sent again."""
    return request if request.methods == methods else replace(request, methods=methods)


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
        self._on_failure: list[Callable[[str, str], None]] = []
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

    def watch_failures(self, listener: Callable[[str, str], None]) -> None:
        """Have a listener told of the service and the endpoint of every attempt that fails."""
        self._on_failure.append(listener)

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
        own.forget(address)

    def drain(self, service: str, address: str) -> None:
        """Send a replica no new requests."""
        self.discovery.drain(service, address)

    def undrain(self, service: str, address: str) -> None:
        """Another replica has taken a drained one's place, and begins with a clean slate."""
        self.discovery.undrain(service, address)
        self._of(service).forget(address)

    def drained(self, service: str, address: str) -> bool:
        """Whether a replica has no requests left to answer."""
        require_name(f"service '{service}'", "address", address)
        return self._of(service).balancer.in_flight(address) == 0

    def deregister(self, service: str, address: str) -> None:
        """A replica has gone."""
        own = self._of(service)
        self.discovery.deregister(service, address)
        own.forget(address)

    def spec(self, service: str) -> ServiceSpec:
        """What a service is."""
        return self._of(service).spec

    def counts(self, service: str) -> ServiceCounts:
        """What became of a service's requests so far."""
        return self._of(service).counts

    def take_load(self, service: str) -> ServiceLoad:
        """What a service has to do; its response times count from now on."""
        own = self._of(service)
        modes = {own.breakers[address].mode for address in own.shut if address in own.breakers}
        worst = next((m for m in (BreakerMode.OPEN, BreakerMode.HALF_OPEN) if m in modes), None)
        latency_ms = own.latencies.take(own.spec.percentile)
        return ServiceLoad(own.balancer.open, latency_ms, worst or BreakerMode.CLOSED)

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

    async def route(
        self,
        service: str,
        request: Any,
        transport: Transport | None = None,
        *,
        timeout_ms: float = 0.0,
        tenant: str = "",
    ) -> Any:
        """Get a request to an endpoint that answers it.

        A caller who gives up (is cancelled) after longer than answers take tells the endpoint's
        breaker of a failure; sooner, it says nothing. An answer in pieces (:class:`HttpStream`) is
        returned when it begins, is open until its end, and not asked for again if it breaks off.

        Parameters
        ----------
        service, request : str and object
            Handed to the transport as it is; an :class:`HttpRequest` with the time it has left.
        transport : callable or None, optional
            Instead of the mesh's own. What it raises is a failure of the endpoint, except
            :class:`RequestRejectedError`, which is handed on.
        timeout_ms, tenant : float and str, optional
            For all of it, and for whom it is; 0, or empty: as an :class:`HttpRequest` says.

        Raises
        ------
        UnknownServiceError
            When there is no such service.
        RateLimitedError
            When it, or the tenant, gets more requests than its limit; no endpoint has seen this.
        NoHealthyEndpointError
            When no endpoint may be asked.
        RetriesExhaustedError
            When the last attempt has failed, or it must not be, or cannot be, made again.
        DeadlineExceededError
            When its time is up.
        """
        own = self._of(service)
        carry = transport if transport is not None else self._transport
        if carry is None:
            raise ConfigurationError(_NO_TRANSPORT)
        if isinstance(request, HttpRequest):
            timeout_ms, tenant = timeout_ms or request.timeout_ms, tenant or request.tenant
            request = _under(own.spec.retry.methods, request)
        arrival_ms = self._clock.now_ms()
        self._admit(own, tenant, arrival_ms)
        due_ms = arrival_ms + timeout_ms if timeout_ms > 0.0 else math.inf
        failed_at: list[str] = []
        while True:
            attempt = self._begin(own, self._pick(own, failed_at), arrival_ms, due_ms)
            try:
                return await self._ask(own, attempt, request, carry)
            except (RequestRejectedError, DeadlineExceededError):
                raise
            except Exception as error:  # any failure of an endpoint is worth another attempt
                failed_at.append(attempt.address)
                until_ms = self._again_ms(own, attempt, failed_at, request, error)
            own.counts.retried += 1
            await self._clock.sleep_until(until_ms)

    def _again_ms(
        self,
        own: _Service,
        attempt: _Attempt,
        failed_at: list[str],
        request: object,
        error: Exception,
    ) -> int:
        """When a request is sent again; raises what its caller is told if it is not."""
        why = ""
        if not repeats(request, error, own.spec.retry.methods):
            why = "and it must not be sent again (RetrySpec.methods)"
        elif len(failed_at) >= own.retry.attempts:
            why = "the last it may have"
        elif not own.retry.spend():
            why = "and its retry budget is spent"
        if why:
            problem = f"{len(failed_at)} attempts failed ({', '.join(failed_at)}), {why}: {error}"
            remedy = "see to its endpoints, or ask later"
            raise RetriesExhaustedError(own.spec.name, problem, remedy) from error
        until_ms = self._clock.now_ms() + own.retry.backoff_ms(len(failed_at) - 1)
        if until_ms >= attempt.due_ms:
            raise self._late(own, attempt.arrival_ms, attempt.due_ms) from error
        return until_ms

    @staticmethod
    def _admit(own: _Service, tenant: str, now_ms: int) -> None:
        """Count a request, and turn it away if there are too many."""
        own.counts.offered += 1
        limiter = own.tenants.of(tenant, now_ms)
        for which, whose in ((limiter, f"of tenant '{tenant:.80}' "), (own.limiter, "")):
            if which is None or which.allow(now_ms):
                continue
            if which is own.limiter and limiter is not None:
                limiter.give_back()
            own.counts.shed += 1
            problem = f"more requests {whose}than {which.rate_rps:g}/s"
            error = RateLimitedError(own.spec.name, problem, "ask later")
            error.retry_after_s = which.wait_s
            raise error
        own.retry.earn(now_ms)

    def _pick(self, own: _Service, failed_at: list[str]) -> str:
        """Choose an endpoint, one that has not failed this request if there is any."""
        addresses = self.discovery.lookup(own.spec.name)
        fresh = [a for a in addresses if a not in failed_at] if failed_at else addresses
        now_ms = self._clock.now_ms()
        if own.shut and addresses and own.panics(addresses, now_ms):
            return own.balancer.choose(fresh or addresses, now_ms)[0]
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

    def _begin(self, own: _Service, address: str, arrival_ms: int, due_ms: float) -> _Attempt:
        """Note that a request goes to an endpoint."""
        now_ms = self._clock.now_ms()
        breaker = own.breaker(address, now_ms)
        own.balancer.begin(address)
        return _Attempt(address, breaker, breaker.generation, arrival_ms, now_ms, due_ms)

    async def _ask(self, own: _Service, attempt: _Attempt, request: Any, carry: Transport) -> Any:
        """Send a request to one endpoint, and note how it went."""
        address, limit_ms = attempt.address, own.spec.timeout_ms
        left_ms = attempt.due_ms - attempt.begin_ms
        if left_ms < math.inf and isinstance(request, HttpRequest):
            request = request.within(left_ms)
        if isinstance(request, HttpExchange) and request.rest is not None:
            request = replace(request, rest=attempt.watched(request.rest))
        if left_ms < limit_ms or limit_ms <= 0.0 < left_ms < math.inf:
            limit_ms = left_ms

        def late() -> Exception:
            if limit_ms == left_ms:
                return self._late(own, attempt.arrival_ms, attempt.due_ms)
            problem = f"'{address}' did not answer within {own.spec.timeout_ms:g} ms"
            remedy = "raise its timeout_ms, or see to its health"
            return AttemptTimeoutError(own.spec.name, problem, remedy)

        try:
            answer = await within(self._clock, carry(address, request), limit_ms, late)
        except asyncio.CancelledError as error:
            if is_leaving():
                self._left(own, attempt)
                raise
            self._note(own, attempt, good=False)
            raise ConnectionError(f"'{address}' cancelled the request") from error
        except RequestRejectedError:
            self._note(own, attempt, good=True)
            raise
        except (DeadlineExceededError, AttemptTimeoutError) as error:
            if attempt.uploads or isinstance(error, DeadlineExceededError):
                self._left(own, attempt)
            else:
                self._note(own, attempt, good=False)
            raise
        except EndpointBusyError:
            self._note_busy(own, attempt)
            raise
        except Exception as error:
            self._note(own, attempt, good=False)
            if isinstance(error, NobodyListensError):
                attempt.breaker.trip(self._clock.now_ms())
            raise
        if isinstance(answer, HttpStream) and not answer.whole:
            self._follow(own, attempt, answer)
        else:
            self._note(own, attempt, good=True)
        return answer

    def _follow(self, own: _Service, attempt: _Attempt, answer: HttpStream) -> None:
        """An answer has begun: its latency is known, and the request is open until its end."""
        now_ms = self._clock.now_ms()
        if attempt.breaker.mode == BreakerMode.HALF_OPEN:  # others wait to hear of it
            attempt.breaker.record(now_ms, True, attempt.generation)
        if own.breakers.get(attempt.address) is attempt.breaker:
            own.balancer.note(attempt.address, now_ms, now_ms - attempt.begin_ms)
        in_time = now_ms - attempt.arrival_ms <= own.spec.objective_ms
        own.latencies.note(now_ms - attempt.arrival_ms)
        due_ms, timer = attempt.due_ms, None
        if due_ms < math.inf:
            timer = self._clock.call_at(math.ceil(due_ms), answer.expire)

        def end(error: BaseException | None) -> None:
            if timer is not None:
                timer.cancel()
            if own.breakers.get(attempt.address) is attempt.breaker:
                own.balancer.give_up(attempt.address)
            if answer.expired or (error is not None and attempt.uploads):
                attempt.breaker.give_up(attempt.generation)
            else:
                attempt.breaker.record(self._clock.now_ms(), error is None, attempt.generation)
            good = error is None and not answer.expired
            own.counts.served += good
            own.counts.within += good and in_time
            own.counts.failed += not good

        answer.watch(end)

    def _note_busy(self, own: _Service, attempt: _Attempt) -> None:
        """An endpoint has too much to do: others are asked first, but it is not sick."""
        now_ms = self._clock.now_ms()
        attempt.breaker.give_up(attempt.generation)
        if own.breakers.get(attempt.address) is attempt.breaker:
            took_ms = now_ms - attempt.begin_ms
            own.balancer.end(attempt.address, now_ms, took_ms, good=False)
        own.counts.failed += 1

    def _left(self, own: _Service, attempt: _Attempt) -> None:
        """Note that the caller waits no more: a failure if it has waited for long.

        Not of the endpoint if that has waited for the caller.
        """
        now_ms = self._clock.now_ms()
        if own.breakers.get(attempt.address) is attempt.breaker:
            own.balancer.give_up(attempt.address)
        late = now_ms - attempt.begin_ms > own.patience_ms(now_ms)
        if late and not attempt.uploads:
            attempt.breaker.record(now_ms, False, attempt.generation)
        else:
            attempt.breaker.give_up(attempt.generation)
        own.counts.failed += late

    def _note(self, own: _Service, attempt: _Attempt, *, good: bool) -> None:
        now_ms = self._clock.now_ms()
        attempt.breaker.record(now_ms, good, attempt.generation)
        if own.breakers.get(attempt.address) is attempt.breaker:  # it has not started anew since
            took_ms = now_ms - attempt.begin_ms
            own.balancer.end(attempt.address, now_ms, took_ms, good=good)
        if good:
            own.counts.served += 1
            own.latencies.note(now_ms - attempt.arrival_ms)
            own.counts.within += now_ms - attempt.arrival_ms <= own.spec.objective_ms
        else:
            own.counts.failed += 1
            for listener in self._on_failure:
                listener(own.spec.name, attempt.address)

    @staticmethod
    def _late(own: _Service, arrival_ms: int, due_ms: float) -> DeadlineExceededError:
        problem = f"no answer within the {due_ms - arrival_ms:g} ms that it may take"
        return DeadlineExceededError(
            own.spec.name, problem, "give it more time, or see to its load"
        )

    def _of(self, service: str) -> _Service:
        require_name("ServiceMesh", "service", service)
        if service not in self._services:
            raise UnknownServiceError(service, self.services)
        return self._services[service]


async def load_request_path(clock: Clock) -> None:
    """Route a few requests to nobody: the first ones load kernels, and should not wait for that."""
    mesh = ServiceMesh(clock)
    limit, retry = LimitSpec(1000.0, 100.0), RetrySpec(base_ms=1.0)
    mesh.add_service(ServiceSpec("warm", 1.0, limit=limit, tenant_limit=limit, retry=retry))
    for address in ("a", "b"):
        mesh.register("warm", address)
    asked: list[str] = []

    async def answer(address: str, request: object) -> object:
        asked.append(address)
        if len(asked) == 1:
            raise ConnectionError("as endpoints may")
        return request

    for _ in range(3):
        await mesh.route("warm", None, answer, tenant="warm")
    mesh.shut_out("warm", "a")
    mesh.let_in("warm", "a")
