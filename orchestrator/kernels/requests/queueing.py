"""How long requests take at a group of servers: G/G/c by two moments.

Steady state
    Erlang's C (A. K. Erlang 1917) gives the probability of waiting at M/M/c. Allen and Cunneen
    scale its mean wait by (ca2 + cs2) / 2, the mean squared coefficient of variation of the gaps
    and of the service times (A. O. Allen, "Probability, Statistics, and Queueing Theory", 1990,
    section 5.3); exact for M/M/c and M/G/1.
Over time
    The queue's length follows the pointwise stationary fluid flow approximation (W.-P. Wang,
    D. Tipper, S. Banerjee, INFOCOM 1996): it grows by arrivals and shrinks at the rate at which a
    system that had this queue in steady state would work. It tends to the formula above where
    the load is below 1, and to a plain fluid above; nothing has to be capped in between.
Distribution
    The wait is 0, or exponential, as at M/M/c. With the service time's variance that gives mean
    and variance of the response time; it is taken to be gamma distributed, and its quantiles
    are Wilson and Hilferty's (PNAS 17, 1931).

Tests measure the error of all of it against an exact simulation (docs/decisions/0006).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from orchestrator.kernels.lang.jit import entry, small_kernel

__all__ = [
    "Response",
    "erlang_c",
    "normal_quantile",
    "quantile_ms",
    "queue_after",
    "response_moments",
    "share_within",
    "steady_queue",
]


_ITERATIONS = 60


_SMALL = 1e-12


class Response(NamedTuple):
    """Mean and variance of response times (any unit of time, and its square)."""

    mean: float
    variance: float


@entry
def erlang_c(servers: int, load: float) -> float:
    """Probability of having to wait at M/M/c, for an offered ``load`` in Erlangs; 1 if unstable."""
    if load <= 0.0:
        return 0.0
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang's B, by its recursion over the servers: no factorials, no overflow
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    use = load / servers
    return blocked / (1.0 - use * (1.0 - blocked))


@entry
def steady_queue(servers: int, use: float, scatter: float) -> float:
    """Mean number of waiting requests at a utilisation ``use`` below 1 (Allen and Cunneen).

    There is at least one server; ``scatter`` is (ca2 + cs2) / 2.
    """
    if use <= 0.0:
        return 0.0
    return scatter * erlang_c(servers, use * servers) * use / (1.0 - use)


@small_kernel
def _excess(servers, use, work, capacity, scatter):
    """(1 - u) times (queue that is left - steady queue of u): falls with u, and stays finite."""
    waiting = erlang_c(servers, use * servers)
    return (1.0 - use) * (work - capacity * use) - scatter * waiting * use


@entry
def queue_after(
    servers: int, work: float, capacity: float, scatter: float
) -> tuple[float, float, float]:
    """The queue at the end of a span, what was served in it, and how busy the servers were.

    The first two add up to ``work``, what waits and arrives. One implicit Euler step of the fluid
    flow equation: with the utilisation u the queue left, ``work - capacity * u``, falls and the
    steady one (:func:`steady_queue`) grows. They meet once; false position with Illinois'
    correction (M. Dowell and P. Jarratt, BIT 11, 1971) finds where.
    """
    if work <= _SMALL:
        return 0.0, max(work, 0.0), 0.0
    use = min(work / capacity, 1.0)
    close = 1e-12 * use
    other, at_other = 0.0, work
    here = _excess(servers, use, work, capacity, scatter)
    for _ in range(_ITERATIONS):
        if here == 0.0:
            break
        step = here * (use - other) / (here - at_other)
        if abs(step) <= close:
            break
        before, at_before = use, here
        use -= step
        here = _excess(servers, use, work, capacity, scatter)
        if (here < 0.0) != (at_before < 0.0):
            other, at_other = before, at_before
        else:
            at_other *= 0.5
    if use < 0.5:  # the queue is a small difference of large numbers there
        queue = min(steady_queue(servers, use, scatter), work)
        return queue, work - queue, use
    served = min(capacity * use, work)
    return work - served, served, use


@entry
def response_moments(
    servers: int, use: float, wait: float, drift: float, service: float, service_cv2: float
) -> Response:
    """Mean and variance of the response time.

    ``use`` is the utilisation, for the probability of waiting; ``wait`` the mean wait, of which
    everybody has ``drift``, because of a queue that is there by overload and not by chance: it does
    not scatter. ``service`` is the mean service time, ``service_cv2`` its squared coefficient of
    variation.
    """
    chance = max(wait - drift, 0.0)
    waiting = max(erlang_c(servers, min(use, 1.0) * servers), _SMALL)
    variance = service_cv2 * service * service
    if chance > 0.0:
        # P(W > t) = p exp(-p t / w), so that E[W^2] = 2 w^2 / p.
        variance += chance * chance * max(2.0 / waiting - 1.0, 0.0)
    return Response(wait + service, variance)


@small_kernel
def _shape(response):
    """Shape of the gamma distribution with these moments."""
    return response.mean * response.mean / max(response.variance, _SMALL * response.mean**2)


@entry
def share_within(response: Response, limit: float) -> float:
    """Share of the response times that are at most ``limit``."""
    if limit <= 0.0:
        return 0.0
    if response.mean <= 0.0:
        return 1.0
    ninth = 1.0 / (9.0 * _shape(response))
    z = ((limit / response.mean) ** (1.0 / 3.0) - 1.0 + ninth) / math.sqrt(ninth)
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


@entry
def quantile_ms(response: Response, z: float) -> float:
    """A quantile of the response time; ``z`` is that quantile of the standard normal."""
    if response.mean <= 0.0:
        return 0.0
    ninth = 1.0 / (9.0 * _shape(response))
    root = max(1.0 - ninth + z * math.sqrt(ninth), 0.0)
    return response.mean * root * root * root


@entry
def normal_quantile(share: float) -> float:
    """Quantile of the standard normal distribution, for a share in (0, 1).

    The rational approximation 26.2.23 of Abramowitz and Stegun (1964), error below 4.5e-4.
    """
    tail = min(share, 1.0 - share)
    t = math.sqrt(-2.0 * math.log(max(tail, 1e-300)))
    above = 2.515517 + t * (0.802853 + t * 0.010328)
    below = 1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))
    z = t - above / below
    return -z if share < 0.5 else z
