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
