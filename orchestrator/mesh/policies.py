"""The state machines of the request path, each with its rule and its state.

All transitions are the kernels' (``orchestrator.kernels.requests``), which the simulator runs too.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.kernels.requests.balance import (
    LatencyState,
    draw_two,
    fold_latency,
    second_is_better,
)
from orchestrator.kernels.requests.breaker import (
    BreakerMode,
    breaker_admit,
    breaker_record,
    closed_breaker,
)
from orchestrator.kernels.requests.limiter import full_bucket, take_token
from orchestrator.kernels.requests.retry import (
    budget_earn,
    budget_spend,
    drawn_backoff_ms,
    full_budget,
)
from orchestrator.mesh.specs import BreakerSpec, LimitSpec, RetrySpec

__all__ = ["CircuitBreaker", "LoadBalancer", "RateLimiter", "RetryPolicy"]


_NO_LATENCY = LatencyState(0.0, 0)


class CircuitBreaker:
    """Keeps requests away from an endpoint that fails.

    Parameters
    ----------
    spec : BreakerSpec
        When it opens and closes.
    now_ms : int
        Time at the beginning.
    """

    def __init__(self, spec: BreakerSpec, now_ms: int = 0) -> None:
        self._rule = spec.rule
        self._state = closed_breaker(int(now_ms))

    @property
    def mode(self) -> BreakerMode:
        """Closed, open or half-open."""
        return BreakerMode(self._state.mode)

    def admit(self, now_ms: int) -> bool:
        """Whether a request may go through; if so, :meth:`record` must be told how it went."""
        allowed, self._state = breaker_admit(self._rule, self._state, now_ms)
        return bool(allowed)

    def would_admit(self, now_ms: int) -> bool:
        """Whether :meth:`admit` would let a request through."""
        return bool(breaker_admit(self._rule, self._state, now_ms)[0])

    def record(self, now_ms: int, good: bool) -> None:
        """Note how a request went."""
        self._state = breaker_record(self._rule, self._state, now_ms, good, 1)


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

    def allow(self, now_ms: int) -> bool:
        """Whether a request passes."""
        allowed, self._state = take_token(self._rule, self._state, now_ms)
        return bool(allowed)


class LoadBalancer:
    """Chooses the better of two endpoints drawn at random, by response time and open requests.

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

    def in_flight(self, address: str) -> int:
        """Requests at an endpoint that are not answered yet."""
        return self._in_flight.get(address, 0)

    def latency_ms(self, address: str) -> float:
        """Moving average of an endpoint's response times; 0: none yet."""
        return self._latency.get(address, _NO_LATENCY).mean_ms

    def choose(self, addresses: Sequence[str]) -> tuple[str, str]:
        """Draw two of some endpoints, which may be the same one; the better one comes first."""
        self._draws += 1
        i, k = draw_two(self._seed, self._draws, len(addresses))
        first, second = addresses[i], addresses[k]
        better = second_is_better(
            self.latency_ms(first),
            self.in_flight(first),
            self.latency_ms(second),
            self.in_flight(second),
        )
        return (second, first) if better else (first, second)

    def begin(self, address: str) -> None:
        """A request was sent to an endpoint."""
        self._in_flight[address] = self.in_flight(address) + 1

    def end(self, address: str, now_ms: int, took_ms: float, *, good: bool = True) -> None:
        """It was answered, or given up, after ``took_ms``.

        A failure that came faster than the average answer does not count: an endpoint that fails
        at once must not look like the fastest one.
        """
        if address not in self._in_flight:
            return  # it was forgotten meanwhile
        self.give_up(address)
        before = self._latency.get(address, LatencyState(0.0, now_ms))
        if good or took_ms > before.mean_ms:
            after = fold_latency(before, now_ms, float(took_ms), self._decay_ms)
            self._latency[address] = after

    def give_up(self, address: str) -> None:
        """The one who asked does not wait for the answer any more."""
        if address in self._in_flight:
            self._in_flight[address] = max(self._in_flight[address] - 1, 0)

    def forget(self, address: str) -> None:
        """Drop what is known of an endpoint."""
        self._latency.pop(address, None)
        self._in_flight.pop(address, None)
