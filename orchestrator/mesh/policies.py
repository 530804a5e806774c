"""The state machines of the request path, each with its rule and its state.

All transitions are the kernels' (``orchestrator.kernels.requests``), which the simulator runs too.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from orchestrator.kernels.requests.balance import (
    LatencyState,
    draw_two,
    fold_latency,
    second_is_better,
)
from orchestrator.kernels.requests.breaker import (
    BreakerMode,
    BreakerState,
    breaker_admit,
    breaker_record,
    closed_breaker,
)
from orchestrator.kernels.requests.limiter import full_bucket, take_token
from orchestrator.kernels.requests.retry import (
    BudgetState,
    budget_earn,
    budget_spend,
    drawn_backoff_ms,
    full_budget,
)
from orchestrator.mesh.specs import BreakerSpec, LimitSpec, RetrySpec

__all__ = [
    "CircuitBreaker",
    "Latencies",
    "LoadBalancer",
    "RateLimiter",
    "RetryPolicy",
    "TenantLimiter",
]


class CircuitBreaker:
    """Keeps requests away from an endpoint that fails.

    Parameters
    ----------
    spec : BreakerSpec
        When it opens and closes.
    now_ms : int
        Time at the beginning.
    watch : callable or None, optional
        Is told of every change of the mode.
    """

    def __init__(
        self,
        spec: BreakerSpec,
        now_ms: int = 0,
        watch: Callable[[], None] | None = None,
    ) -> None:
        self._rule = spec.rule
        self._watch = watch
        self._state = closed_breaker(int(now_ms))
        self._generation = 0
        self._tripped = False  # it was not requests that opened it

    @property
    def mode(self) -> BreakerMode:
        """Closed, open or half-open."""
        return BreakerMode(self._state.mode)

    @property
    def generation(self) -> int:
        """How often the mode has changed: what a request is told when it is let through."""
        return self._generation

    def admit(self, now_ms: int) -> bool:
        """Whether a request may go through; if so, :meth:`record` must be told how it went."""
        if self._state.mode == BreakerMode.CLOSED:
            return True  # as the kernel says, and sooner: nothing changes
        allowed, state = breaker_admit(self._rule, self._state, now_ms)
        self._become(state)
        return bool(allowed)

    def would_admit(self, now_ms: int) -> bool:
        """Whether :meth:`admit` would let a request through."""
        closed = self._state.mode == BreakerMode.CLOSED
        return closed or bool(breaker_admit(self._rule, self._state, now_ms)[0])

    def record(self, now_ms: int, good: bool, generation: int | None = None) -> None:
        """Note how a request went.

        Parameters
        ----------
        now_ms : int
            Time.
        good : bool
            Whether it was answered.
        generation : int or None, optional
            :attr:`generation` when it was let through. An answer of an earlier one is about a
            time that is over, and changes nothing. None: the present one.
        """
        if generation is None or generation == self._generation:
            self._become(breaker_record(self._rule, self._state, now_ms, good, 1))

    def give_up(self, generation: int | None = None) -> None:
        """A request was given up before it said anything: if it was a probe, another may go."""
        probing = self._state.mode == BreakerMode.HALF_OPEN and self._state.probing > 0
        if probing and (generation is None or generation == self._generation):
            self._state = self._state._replace(probing=self._state.probing - 1)

    def trip(self, now_ms: int) -> None:
        """Open, or stay open: something else than a request has found the endpoint sick."""
        self._tripped = self._tripped or self.mode == BreakerMode.CLOSED
        self._become(closed_breaker(int(now_ms))._replace(mode=int(BreakerMode.OPEN)))

    def recover(self, now_ms: int) -> None:
        """Close, if it was :meth:`trip` that opened it: what requests say, they must unsay."""
        if self._tripped:
            self._become(closed_breaker(int(now_ms)))

    def _become(self, state: BreakerState) -> None:
        changed = state.mode != self._state.mode
        self._state = state
        if state.mode == BreakerMode.CLOSED:
            self._tripped = False
        if changed:
            self._generation += 1
            if self._watch is not None:
                self._watch()


class RetryPolicy:
    """Says whether, and when, a request may be tried again.

    Parameters
    ----------
    spec : RetrySpec
        How often, how soon and how much.
    now_ms : int
        Time at the beginning.
    seed : int
        Of the random part of the waits.
    """

    def __init__(self, spec: RetrySpec, now_ms: int = 0, seed: int = 0) -> None:
        self._rule = spec.rule
        self._state = full_budget(self._rule, int(now_ms))
        self._seed = seed
        self._draws = 0

    @property
    def attempts(self) -> int:
        """Most attempts of one request."""
        return self._rule.attempts

    @property
    def balance(self) -> float:
        """Retries that the budget has left."""
        return self._state.balance

    def earn(self, now_ms: int) -> None:
        """Note a first attempt: it earns a part of a retry."""
        if self._state.balance >= self._rule.reserve:  # as the kernel does, and sooner
            stamp_ms = max(int(now_ms), self._state.stamp_ms)
            self._state = BudgetState(self._state.balance, stamp_ms)
            return
        self._state = budget_earn(self._rule, self._state, now_ms, 1.0)

    def spend(self) -> bool:
        """Whether the budget has a retry left; if so it is spent."""
        allowed, self._state = budget_spend(self._state)
        return bool(allowed)

    def backoff_ms(self, retry: int) -> int:
        """Wait before retry number ``retry``, counted from 0."""
        self._draws += 1
        return round(drawn_backoff_ms(self._rule, retry, self._seed, self._draws))


class RateLimiter:
    """Lets so many requests per second through, and so many at once.

    Parameters
    ----------
    spec : LimitSpec
        How many.
    now_ms : int
        Time at the beginning.
    """

    def __init__(self, spec: LimitSpec, now_ms: int = 0) -> None:
        self._rule = spec.rule
        self._state = full_bucket(self._rule, int(now_ms))

    @property
    def tokens(self) -> float:
        """Requests that could pass at once when it was last asked."""
        return self._state.tokens

    @property
    def rate_rps(self) -> float:
        """Requests per second that pass on average."""
        return self._rule.rate_rps

    @property
    def wait_s(self) -> float:
        """Seconds until a request passes that did not, if nobody else asks."""
        rate_rps = self._rule.rate_rps
        return max(1.0 - self._state.tokens, 0.0) / rate_rps if rate_rps > 0.0 else 0.0

    def give_back(self) -> None:
        """A request that passed here was turned away by another limiter."""
        if self._rule.rate_rps > 0.0:
            tokens = min(self._state.tokens + 1.0, self._rule.burst)
            self._state = self._state._replace(tokens=tokens)

    def allow(self, now_ms: int) -> bool:
        """Whether a request passes."""
        if self._rule.rate_rps <= 0.0:
            return True  # as the kernel says, and sooner
        allowed, self._state = take_token(self._rule, self._state, now_ms)
        return bool(allowed)


class TenantLimiter:
    """A token bucket for each tenant.

    Parameters
    ----------
    spec : LimitSpec
        Of tenants without one of their own.
    own : mapping of str to LimitSpec, optional
        Of the others.
    most : int, optional
        Tenants that are remembered: whoever has not asked for longest begins anew.
    """

    def __init__(
        self, spec: LimitSpec, own: Mapping[str, LimitSpec] | None = None, *, most: int = 4096
    ) -> None:
        self._spec, self._own, self._most = spec, own or {}, most
        self._limiters = OrderedDict[str, RateLimiter]()

    def of(self, tenant: str, now_ms: int) -> RateLimiter | None:
        """Bucket of a tenant; None: it has no limit."""
        spec = self._own.get(tenant, self._spec)
        if spec.rate_rps <= 0.0:
            return None
        found = self._limiters.get(tenant)
        if found is None:
            found = self._limiters[tenant] = RateLimiter(spec, now_ms)
            if len(self._limiters) > self._most:
                self._limiters.popitem(last=False)
        self._limiters.move_to_end(tenant)
        return found


class Latencies:
    """How long answers have taken since somebody looked, in classes of growing width.

    Up to 16 ms each millisecond is a class, then there are eight to a doubling: what is told is off
    by 9 % at most.
    """

    def __init__(self) -> None:
        self._counts = [0] * _CLASSES
        self._known = 0

    def note(self, took_ms: float) -> None:
        """An answer has taken so long."""
        self._counts[_class_of(took_ms)] += 1
        self._known += 1

    def take(self, percentile: float) -> float:
        """A percentile (0 to 1) of what is known, ms, which is then forgotten; 0 if nothing is."""
        left, counts = percentile * self._known, self._counts
        self._counts, self._known = [0] * _CLASSES, 0
        for k, count in enumerate(counts):
            left -= count
            if count and left <= 0.0:
                return _upper_ms(k)
        return 0.0


_EXACT, _EACH, _DOUBLINGS = 16, 8, 20
_CLASSES = _EXACT + _EACH * _DOUBLINGS + 1


def _class_of(took_ms: float) -> int:
    """The class of a response time: the first one whose upper end is not below it."""
    if took_ms <= _EXACT:
        return max(math.ceil(took_ms), 0)
    above = math.ceil(_EACH * math.log2(took_ms / _EXACT) - 1e-9)
    return min(_EXACT + above, _CLASSES - 1)


def _upper_ms(number: int) -> float:
    """Where a class ends."""
    return float(number) if number <= _EXACT else _EXACT * 2.0 ** ((number - _EXACT) / _EACH)


class LoadBalancer:
    """Chooses the better of two endpoints drawn at random, by response time and open requests.

    What an average says grows old: while nothing is asked of an endpoint, its average falls, so
    that one that was slow once is tried again. With requests open it does not fall below that of
    its peers: one that hangs must not look fast. An endpoint without an average counts as its
    peers do, and its open requests count by their square: until it has answered one, it gets few.

    Parameters
    ----------
    decay_ms : float
        Time in which the weight of past response times falls by a factor of e.
    seed : int
        Of the draws.
    """

    def __init__(self, decay_ms: float = 10_000.0, seed: int = 0) -> None:
        self._decay_ms = float(decay_ms)
        self._seed = seed
        self._draws = 0
        self._latency: dict[str, LatencyState] = {}
        self._in_flight: dict[str, int] = {}
        self._now_ms = 0

    def in_flight(self, address: str) -> int:
        """Requests at an endpoint that are not answered yet."""
        return self._in_flight.get(address, 0)

    @property
    def open(self) -> int:
        """Requests at all endpoints that are not answered yet."""
        return sum(self._in_flight.values())

    def latency_ms(self, address: str, now_ms: int | None = None) -> float:
        """What an answer of an endpoint is expected to take.

        Parameters
        ----------
        address : str
            The endpoint.
        now_ms : int or None, optional
            Time; None: the last one that the balancer was told.

        Returns
        -------
        float
            The moving average of its response times as it counts now; that of its peers if there
            is none yet, 0 if they have none either.
        """
        now_ms = self._now_ms if now_ms is None else now_ms
        own = self._latency.get(address)
        if own is None:
            return self._peers_ms(address, now_ms)
        mean_ms = self._faded(own, now_ms)
        if self.in_flight(address) and mean_ms < own.mean_ms:
            return max(mean_ms, min(own.mean_ms, self._peers_ms(address, now_ms)))
        return mean_ms

    def typical_ms(self, now_ms: int | None = None) -> float | None:
        """Mean of the endpoints' averages, as they count now or as they were; None: no answers."""
        known = self._latency.values()
        if not known:
            return None
        if now_ms is None:
            return sum(state.mean_ms for state in known) / len(known)
        return sum(self._faded(state, now_ms) for state in known) / len(known)

    def _faded(self, state: LatencyState, now_ms: int) -> float:
        """An average after the time that has passed since the last answer."""
        elapsed = now_ms - state.stamp_ms
        return state.mean_ms * math.exp(-elapsed / self._decay_ms) if elapsed > 0 else state.mean_ms

    def _peers_ms(self, address: str, now_ms: int) -> float:
        """Mean of the averages of the other endpoints; 0 if they have none."""
        peers = [self._faded(s, now_ms) for name, s in self._latency.items() if name != address]
        return sum(peers) / len(peers) if peers else 0.0

    def choose(self, addresses: Sequence[str], now_ms: int | None = None) -> tuple[str, str]:
        """Draw two of some endpoints, which may be the same one; the better one comes first.

        Parameters
        ----------
        addresses : sequence of str
            The endpoints.
        now_ms : int or None, optional
            Time; None: the last one that the balancer was told.

        Returns
        -------
        tuple of str
            The better one and the other one.
        """
        self._tell(now_ms)
        self._draws += 1
        i, k = draw_two(self._seed, self._draws, len(addresses))
        first, second = addresses[i], addresses[k]
        better = second_is_better(
            self.latency_ms(first),
            self._counted(first),
            self.latency_ms(second),
            self._counted(second),
        )
        return (second, first) if better else (first, second)

    def _counted(self, address: str) -> int:
        """Open requests of an endpoint as they count: more if only others have answered yet."""
        there = self.in_flight(address)
        tried = address in self._latency or not self._latency
        return there if tried else (there + 1) ** 2 - 1

    def begin(self, address: str) -> None:
        """A request was sent to an endpoint."""
        self._in_flight[address] = self.in_flight(address) + 1

    def end(self, address: str, now_ms: int, took_ms: float, *, good: bool = True) -> None:
        """It was answered, or given up, after ``took_ms``.

        A failure that came faster than the answers of its peers, or its own, counts as slow as
        they are: an endpoint that fails at once must not look like the fastest one.
        """
        self._tell(now_ms)
        if address not in self._in_flight:
            return  # it was forgotten meanwhile
        least_ms = 0.0 if good else max(self.latency_ms(address), self._peers_ms(address, now_ms))
        self.give_up(address)
        sample_ms = max(float(took_ms), least_ms)
        if good or sample_ms > 0.0:  # otherwise nobody has answered yet
            self._fold(address, now_ms, sample_ms)

    def note(self, address: str, now_ms: int, took_ms: float) -> None:
        """An answer has begun after ``took_ms``; the request is open still."""
        self._tell(now_ms)
        if address in self._in_flight:
            self._fold(address, now_ms, float(took_ms))

    def _fold(self, address: str, now_ms: int, sample_ms: float) -> None:
        before = self._latency.get(address, LatencyState(0.0, now_ms))
        self._latency[address] = fold_latency(before, now_ms, sample_ms, self._decay_ms)

    def give_up(self, address: str) -> None:
        """The one who asked does not wait for the answer any more."""
        if address in self._in_flight:
            self._in_flight[address] = max(self._in_flight[address] - 1, 0)

    def forget(self, address: str) -> None:
        """Drop what is known of an endpoint."""
        self._latency.pop(address, None)
        self._in_flight.pop(address, None)

    def _tell(self, now_ms: int | None) -> None:
        if now_ms is not None:
            self._now_ms = max(self._now_ms, int(now_ms))
