"""What a service is: its demand's shape, its objective, and the rules of its request path.

The same specification configures a service in the simulator (:func:`service_records`) and the live
mesh (the ``rule`` of each part).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ValidationError
from orchestrator.kernels.requests.breaker import BreakerRule
from orchestrator.kernels.requests.limiter import LimitRule
from orchestrator.kernels.requests.retry import RetryRule
from orchestrator.kernels.state.records import SERVICE_DTYPE
from orchestrator.worker.inference.http import IDEMPOTENT

__all__ = ["BreakerSpec", "LimitSpec", "ProbeSpec", "RetrySpec", "ServiceSpec", "service_records"]


_MAX_ATTEMPTS = 64


def _refuse(subject: str, name: str, value: object, remedy: str) -> None:
    raise ValidationError(subject, name, f"is {value!r}", remedy)


def _check_number(
    subject: str, name: str, value: float, least: float, most: float = math.inf
) -> None:
    """Demand a finite number within [least, most]."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        _refuse(subject, name, value, "give a finite number")
    if not least <= value <= most:
        limit = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        _refuse(subject, name, value, f"it must be {limit}")


def _check_positive(subject: str, name: str, value: float) -> None:
    _check_number(subject, name, value, 0.0)
    if value == 0.0:
        _refuse(subject, name, value, "it must be greater than 0")


def _check_count(subject: str, name: str, value: int, least: int, most: int = 1 << 30) -> None:
    """Demand an integer within [least, most]."""
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(subject, name, value, "give an integer")
    if not least <= value <= most:
        _refuse(subject, name, value, f"it must be {least} to {most}")


@dataclass(frozen=True)
class LimitSpec:
    """Rate limiter of a service: a token bucket.

    Parameters
    ----------
    rate_rps : float
        Requests per second that pass on average; 0: no limit.
    burst : float
        Requests that may pass at once, at least 1.
    """

    rate_rps: float = 0.0
    burst: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that limit nothing sensible."""
        _check_number("LimitSpec", "rate_rps", self.rate_rps, 0.0)
        _check_number("LimitSpec", "burst", self.burst, 1.0)

    @property
    def rule(self) -> LimitRule:
        """What the kernels take."""
        return LimitRule(float(self.rate_rps), float(self.burst))


@dataclass(frozen=True)
class RetrySpec:
    """Retries of a service: exponential backoff within a budget.

    Parameters
    ----------
    attempts : int
        Most attempts of one request, the first included, 1 to 64.
    base_ms, factor, cap_ms : float
        Wait before the first retry, its growth from retry to retry, and its limit.
    jitter : float
        Part of a wait that is random, 0 to 1.
    budget : float
        Retries that each request earns: bounds the load that retries add.
    floor_rps : float
        Retries per second that are earned without requests.
    reserve : float
        Most retries that can be saved up.
    methods : tuple of str
        Of HTTP requests that may be sent again after an endpoint may have worked on them. Others
        are sent again only if none has, or if they have an ``Idempotency-Key``. Requests that are
        plain data may always.
    """

    attempts: int = 3
    base_ms: float = 10.0
    factor: float = 2.0
    cap_ms: float = 1000.0
    jitter: float = 0.5
    budget: float = 0.2
    floor_rps: float = 0.0
    reserve: float = 10.0
    methods: tuple[str, ...] = IDEMPOTENT

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        _check_count("RetrySpec", "attempts", self.attempts, 1, _MAX_ATTEMPTS)
        named = isinstance(self.methods, tuple) and all(isinstance(m, str) for m in self.methods)
        if not named or any(m != m.upper() for m in self.methods):
            _refuse("RetrySpec", "methods", self.methods, "give a tuple of names in upper case")
        for name in ("base_ms", "cap_ms", "budget", "floor_rps", "reserve"):
            _check_number("RetrySpec", name, getattr(self, name), 0.0)
        _check_number("RetrySpec", "factor", self.factor, 1.0)
        _check_number("RetrySpec", "jitter", self.jitter, 0.0, 1.0)

    @property
    def rule(self) -> RetryRule:
        """What the kernels take."""
        return RetryRule(
            int(self.attempts),
            float(self.base_ms),
            float(self.factor),
            float(self.cap_ms),
            float(self.jitter),
            float(self.budget),
            float(self.floor_rps),
            float(self.reserve),
        )


@dataclass(frozen=True)
class BreakerSpec:
    """Circuit breaker of each endpoint of a service.

    Parameters
    ----------
    failures : int
        Failures in a row that open it; 0: they do not.
    ratio : float
        Share of failures in a window that opens it; 0: it does not.
    window_ms, minimum : int
        Length of a window, and the requests below which its ratio says nothing.
    open_ms : int
        Time that it stays open.
    probes : int
        Requests that must succeed, half-open, before it closes.
    """

    failures: int = 5
    ratio: float = 0.5
    window_ms: int = 1000
    minimum: int = 20
    open_ms: int = 1000
    probes: int = 1

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        _check_count("BreakerSpec", "failures", self.failures, 0)
        _check_number("BreakerSpec", "ratio", self.ratio, 0.0, 1.0)
        for name in ("window_ms", "minimum", "open_ms", "probes"):
            _check_count("BreakerSpec", name, getattr(self, name), 1)

    @property
    def rule(self) -> BreakerRule:
        """What the kernels take."""
        return BreakerRule(
            int(self.failures),
            float(self.ratio),
            int(self.window_ms),
            int(self.minimum),
            int(self.open_ms),
            int(self.probes),
        )


@dataclass(frozen=True)
class ProbeSpec:
    """How often endpoints are asked, while somebody sends requests to their service.

    Parameters
    ----------
    interval_ms : int
        Time between two probes of an endpoint; 0: there are none.
    timeout_ms : int
        Within which one must be answered.
    failures, successes : int
        Probes in a row that shut an endpoint out, and that let it in again. One is enough where the
        endpoint answers 503, or where nobody listens.
    idle_ms : int
        After the last request to a service, time in which its endpoints are still probed.
    most_per_s : int
        Most probes per second, of all services together: with more endpoints than fit, intervals
        are longer.

    The defaults find a backend that hangs within 20 + 20 + 20 = 60 ms, of up to 100 at a time.
    """

    interval_ms: int = 20
    timeout_ms: int = 20
    failures: int = 2
    successes: int = 2
    idle_ms: int = 5000
    most_per_s: int = 5000

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        _check_count("ProbeSpec", "interval_ms", self.interval_ms, 0)
        for name in ("timeout_ms", "failures", "successes", "idle_ms", "most_per_s"):
            _check_count("ProbeSpec", name, getattr(self, name), 1)


@dataclass(frozen=True)
class ServiceSpec:
    """An inference service.

    Parameters
    ----------
    name : str
        Unique.
    service_ms : float
        Mean time that a request holds a slot of a replica.
    replicas, min_replicas, max_replicas : int
        Replicas to begin with, and the bounds of scaling.
    slots : int
        Requests that a replica serves at a time.
    service_cv2, arrival_cv2 : float
        Squared coefficients of variation of the service times and of the gaps between requests.
    objective_ms, percentile : float
        Time within which a request should be answered, and the percentile (0 to 1, exclusive)
        of the response time that is reported.
    timeout_ms : float
        An attempt is given up after this time; 0: never.
    queue_limit : float
        Most requests that wait in the simulator; 0: no limit.
    limit, retry, breaker : LimitSpec, RetrySpec, BreakerSpec
        Rules of the request path.
    sick_per_hour, sick_seconds : float
        In the simulator: how often a replica begins to fail all its requests, and for how long.
    tenant_limit : LimitSpec
        Rate limiter of each tenant, beside that of the service.
    tenant_limits : tuple of pairs
        Tenants with one of their own, by name, and that: ``(("a", LimitSpec(10.0)), ...)``.
    panic : float
        Share of the endpoints that are there below which breakers are not heeded: with fewer that
        they let requests to, all get some, since a crowd of sick ones is more likely our mistake
        than theirs, and the few well ones must not get it all. 0: never.
    """

    name: str
    service_ms: float
    replicas: int = 1
    min_replicas: int = 1
    max_replicas: int = 64
    slots: int = 1
    service_cv2: float = 1.0
    arrival_cv2: float = 1.0
    objective_ms: float = 1000.0
    percentile: float = 0.95
    timeout_ms: float = 0.0
    queue_limit: float = 0.0
    limit: LimitSpec = field(default_factory=LimitSpec)
    retry: RetrySpec = field(default_factory=RetrySpec)
    breaker: BreakerSpec = field(default_factory=BreakerSpec)
    sick_per_hour: float = 0.0
    sick_seconds: float = 0.0
    tenant_limit: LimitSpec = LimitSpec()
    tenant_limits: tuple[tuple[str, LimitSpec], ...] = ()
    panic: float = 0.5

    def __post_init__(self) -> None:
        """Validate every field; raise :class:`ValidationError` naming the first bad one."""
        me = f"ServiceSpec '{self.name}'"
        if not isinstance(self.name, str) or not self.name:
            _refuse(me, "name", self.name, "give the service a name")
        for name in ("service_ms", "objective_ms"):
            _check_positive(me, name, getattr(self, name))
        for name in ("replicas", "min_replicas", "max_replicas", "slots"):
            _check_count(me, name, getattr(self, name), 1)
        if not self.min_replicas <= self.replicas <= self.max_replicas:
            bounds = f"[{self.min_replicas}, {self.max_replicas}]"
            _refuse(me, "replicas", self.replicas, f"it must be within {bounds}")
        plain = ("service_cv2", "arrival_cv2", "timeout_ms", "queue_limit")
        for name in (*plain, "sick_per_hour", "sick_seconds"):
            _check_number(me, name, getattr(self, name), 0.0)
        _check_number(me, "percentile", self.percentile, 0.001, 0.9999)
        _check_number(me, "panic", self.panic, 0.0, 1.0)
        kinds = (
            ("limit", LimitSpec),
            ("retry", RetrySpec),
            ("breaker", BreakerSpec),
            ("tenant_limit", LimitSpec),
        )
        for name, kind in kinds:
            if not isinstance(getattr(self, name), kind):
                _refuse(me, name, getattr(self, name), f"give a {kind.__name__}")
        for pair in self.tenant_limits:
            if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], LimitSpec)):
                _refuse(me, "tenant_limits", pair, "give pairs of a tenant and a LimitSpec")

    def capacity_rps(self, replicas: int) -> float:
        """Requests per second that so many replicas can serve at most."""
        return replicas * self.slots * 1000.0 / self.service_ms


def service_records(specs: Sequence[ServiceSpec], jobs: Sequence[int]) -> NDArray[np.void]:
    """Records of services for ``load_services``.

    Parameters
    ----------
    specs : sequence of ServiceSpec
        Services, in the order of the rows of their series.
    jobs : sequence of int
        For each, the index of the job whose workers are its replicas.

    Returns
    -------
    ndarray of SERVICE_DTYPE [services]
        What the services are; their state is set when an episode begins.

    Raises
    ------
    ValidationError
        When there is not one job for each service, or one job for two.
    """
    if len(jobs) != len(specs):
        raise ValidationError(
            "service_records", "jobs", f"has {len(jobs)} entries", f"give {len(specs)}: one each"
        )
    if len(set(jobs)) != len(jobs) or any(j < 0 for j in jobs):
        _refuse("service_records", "jobs", list(jobs), "give each service a job of its own")
    records = np.zeros(len(specs), SERVICE_DTYPE)
    same = ("service_ms", "service_cv2", "arrival_cv2", "objective_ms", "percentile", "timeout_ms")
    for s, (spec, j) in enumerate(zip(specs, jobs, strict=True)):
        for name in (*same, "queue_limit", "slots", "sick_per_hour"):
            records[name][s] = getattr(spec, name)
        records["job"][s] = j
        records["sick_ms"][s] = round(spec.sick_seconds * 1000.0)
        records["limit_rps"][s] = spec.limit.rate_rps
        records["limit_burst"][s] = spec.limit.burst
        records["attempts"][s] = spec.retry.attempts
        records["retry_budget"][s] = spec.retry.budget
        records["retry_floor_rps"][s] = spec.retry.floor_rps
        records["retry_reserve"][s] = spec.retry.reserve
        for name in ("failures", "ratio", "window_ms", "minimum", "open_ms", "probes"):
            records[f"breaker_{name}"][s] = getattr(spec.breaker, name)
    return records
