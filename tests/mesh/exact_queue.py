"""G/G/c simulated exactly, request by request: first come, first served, one queue for all."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit
def _responses(gaps, services, servers):
    """Response time of each request: whichever server is free first takes the next one."""
    free_at = np.zeros(servers)
    out = np.empty(gaps.shape[0])
    now = 0.0
    for k in range(gaps.shape[0]):
        now += gaps[k]
        first = np.argmin(free_at)
        begin = max(now, free_at[first])
        free_at[first] = begin + services[k]
        out[k] = free_at[first] - now
    return out


def gamma_draws(rng: np.random.Generator, mean: float, cv2: float, count: int) -> np.ndarray:
    """Gamma distributed numbers with a mean and a squared coefficient of variation."""
    if cv2 == 0.0:
        return np.full(count, mean)
    return rng.gamma(1.0 / cv2, mean * cv2, count)


def simulate(
    seed: int, servers: int, use: float, arrival_cv2: float, service_cv2: float, count: int
) -> np.ndarray:
    """Response times in steady state, in units of the mean service time."""
    rng = np.random.default_rng(seed)
    warm = count // 5
    gaps = gamma_draws(rng, 1.0 / (use * servers), arrival_cv2, count + warm)
    services = gamma_draws(rng, 1.0, service_cv2, count + warm)
    return _responses(gaps, services, servers)[warm:]


@numba.njit
def _waiting_at(arrivals, services, servers, times):
    """Requests that wait (not in service) at some ascending times."""
    free_at = np.zeros(servers)
    begins = np.empty(arrivals.shape[0])
    for k in range(arrivals.shape[0]):
        first = np.argmin(free_at)
        begins[k] = max(arrivals[k], free_at[first])
        free_at[first] = begins[k] + services[k]
    out = np.zeros(times.shape[0])
    for i in range(times.shape[0]):
        for k in range(arrivals.shape[0]):
            out[i] += arrivals[k] <= times[i] and begins[k] > times[i]
    return out


def waiting_over_time(
    seed: int, servers: int, loads: list[float], tick: float, repeats: int
) -> np.ndarray:
    """Mean number of waiting requests at the end of each tick, from empty; M(t)/M/c."""
    rng = np.random.default_rng(seed)
    ends = tick * np.arange(1, len(loads) + 1)
    total = np.zeros(len(loads))
    for _ in range(repeats):
        parts = []
        for k, load in enumerate(loads):
            count = rng.poisson(load * servers * tick)
            parts.append(np.sort(rng.uniform(k * tick, (k + 1) * tick, count)))
        arrivals = np.concatenate(parts)
        total += _waiting_at(arrivals, rng.exponential(1.0, len(arrivals)), servers, ends)
    return total / repeats


@numba.njit
def _two_choices(gaps, services, servers, picks):
    """Response times when each server has its own queue and the shorter of two is joined."""
    depth = 4096
    ends = np.full((servers, depth), -1.0)  # departure times of the last requests, a ring
    head = np.zeros(servers, np.int64)  # requests that left
    tail = np.zeros(servers, np.int64)  # requests that came
    out = np.empty(gaps.shape[0])
    now = 0.0
    for k in range(gaps.shape[0]):
        now += gaps[k]
        best, least = -1, 1 << 60
        for i in range(2):
            s = picks[k, i]
            while head[s] < tail[s] and ends[s, head[s] % depth] <= now:
                head[s] += 1
            if tail[s] - head[s] < least:
                best, least = s, tail[s] - head[s]
        begin = now
        if tail[best] > head[best]:
            begin = ends[best, (tail[best] - 1) % depth]
        if tail[best] - head[best] >= depth:
            raise RuntimeError("the ring is too short")
        ends[best, tail[best] % depth] = begin + services[k]
        tail[best] += 1
        out[k] = begin + services[k] - now
    return out


def two_choices(seed: int, servers: int, use: float, count: int) -> np.ndarray:
    """Response times of Poisson requests, exponential service, balanced by two choices."""
    rng = np.random.default_rng(seed)
    warm = count // 5
    gaps = rng.exponential(1.0 / (use * servers), count + warm)
    services = rng.exponential(1.0, count + warm)
    first = rng.integers(0, servers, count + warm)
    second = (first + rng.integers(1, servers, count + warm)) % servers
    return _two_choices(gaps, services, servers, np.stack([first, second], axis=1))[warm:]
