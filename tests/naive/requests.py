"""The request path in plain Python: its state machines, and queues simulated request by request."""

from __future__ import annotations

import math

import numba
import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm


class NaiveBreaker:
    """Keeps every answer since its window began, and counts them anew each time."""

    def __init__(self, rule, now_ms):
        self.rule = rule
        self._close(now_ms)

    def _close(self, now_ms):
        self.mode, self.since, self.window = "closed", now_ms, now_ms
        self.answers, self.in_row = [], []

    def _open(self, now_ms):
        self.mode, self.since = "open", now_ms

    def admit(self, now_ms):
        if self.mode == "closed":
            return True
        if self.mode == "half-open" and self.sent < self.rule.probes:
            self.sent += 1
            return True
        if now_ms - self.since < self.rule.open_ms:
            return False
        self.mode, self.since, self.sent, self.good = "half-open", now_ms, 1, 0
        return True

    def record(self, now_ms, good):
        if self.mode == "half-open":
            if not good:
                self._open(now_ms)
            else:
                self.good += 1
                if self.good == self.rule.probes:
                    self._close(now_ms)
        elif self.mode == "closed":
            if now_ms - self.window >= self.rule.window_ms:
                self.window, self.answers = now_ms, []
            self.answers.append(good)
            self.in_row.append(good)
            row = 0
            for answer in reversed(self.in_row):
                if answer:
                    break
                row += 1
            bad = self.answers.count(False)
            enough = len(self.answers) >= self.rule.minimum and bad > 0
            by_ratio = self.rule.ratio > 0 and enough and bad / len(self.answers) >= self.rule.ratio
            by_row = self.rule.failures > 0 and row >= self.rule.failures
            if by_ratio or by_row:
                self._open(now_ms)


class NaiveBucket:
    """A token bucket that is filled millisecond by millisecond."""

    def __init__(self, rule, now_ms):
        self.rule, self.now, self.tokens = rule, now_ms, rule.burst

    def take(self, now_ms):
        for _ in range(now_ms - self.now):
            self.tokens = min(self.tokens + self.rule.rate_rps / 1000.0, self.rule.burst)
        self.now = max(self.now, now_ms)
        if self.tokens < 1.0 - 1e-9:
            return False
        self.tokens -= 1.0
        return True


def erlang_c(servers, load):
    """The textbook's sum."""
    if load >= servers:
        return 1.0 if load > 0 else 0.0
    terms = [math.exp(k * math.log(load) - math.lgamma(k + 1)) for k in range(servers)]
    top = math.exp(servers * math.log(load) - math.lgamma(servers + 1)) * servers / (servers - load)
    return top / (sum(terms) + top)


def steady_queue(servers, use, scatter):
    return scatter * erlang_c(servers, servers * use) * use / (1.0 - use) if use > 0 else 0.0


def queue_after(servers, work, capacity, scatter):
    """Queue, served and utilisation at the end of a span."""
    if work <= 0.0:
        return 0.0, 0.0, 0.0

    def left_over(use):
        return steady_queue(servers, use, scatter) - (work - capacity * use)

    use = brentq(left_over, 0.0, 1.0 - 1e-13, xtol=1e-14)
    return work - capacity * use, capacity * use, use


def _gamma_normal(mean, variance, limit):
    """The normal quantile that Wilson and Hilferty give a limit."""
    k = mean**2 / max(variance, 1e-12 * mean**2)
    return ((limit / mean) ** (1 / 3) - 1 + 1 / (9 * k)) * math.sqrt(9 * k)


class NaiveService:
    """A service whose replicas never change and never fall sick, tick by tick."""

    def __init__(self, spec, replicas):
        self.spec, self.servers = spec, replicas * spec.slots
        self.tokens, self.purse = spec.limit.burst, spec.retry.reserve
        self.backlog = self.late = 0.0
        self.offered = self.shed = self.retried = self.failed = self.served = 0.0
        self.within = self.violations = self.latency = 0.0

    def tick(self, rate, seconds):
        spec = self.spec
        offered = admitted = rate * seconds
        if spec.limit.rate_rps > 0:
            most = self.tokens + spec.limit.rate_rps * seconds
            admitted = min(offered, most)
            self.tokens = min(most - admitted, spec.limit.burst)
        purse = self.purse + spec.retry.budget * admitted + spec.retry.floor_rps * seconds
        wanted = sum(admitted * self.late**k for k in range(1, spec.retry.attempts))
        retries = min(wanted, purse)
        self.purse = min(purse - retries, spec.retry.reserve)
        before = self.backlog
        served, within, overflow = self._work(admitted + retries, seconds * 1000.0)
        self.offered += offered
        self.shed += offered - admitted
        self.retried += retries
        self.failed += overflow
        self.served += served
        self.within += within
        late = offered - within - (self.backlog - before)
        self.violations += max(late, offered - admitted)

    def _work(self, arrivals, span_ms):
        spec, before = self.spec, self.backlog
        scatter = (spec.arrival_cv2 + spec.service_cv2) / 2
        capacity = self.servers * span_ms / spec.service_ms
        queue, served, use = queue_after(self.servers, before + arrivals, capacity, scatter)
        overflow = max(queue - spec.queue_limit, 0.0) if spec.queue_limit > 0 else 0.0
        self.backlog = queue - overflow
        self.late = self.latency = 0.0
        if served <= 1e-3:
            return served, served, overflow
        fall = before - self.backlog
        if fall <= 0:
            mean = (before + self.backlog) / 2
        else:  # a triangle on top of what is left
            time = min(fall / max(capacity - arrivals, fall), 1.0)
            mean = time * (before + self.backlog) / 2 + (1 - time) * self.backlog
        wait = mean * span_ms / served
        drift = wait
        if arrivals / capacity < 1:
            steady = steady_queue(self.servers, arrivals / capacity, scatter)
            drift = max(wait - steady * span_ms / served, 0.0)
        variance = spec.service_cv2 * spec.service_ms**2
        if wait > drift:
            waiting = max(erlang_c(self.servers, use * self.servers), 1e-12)
            variance += (wait - drift) ** 2 * max(2 / waiting - 1, 0.0)
        mean = wait + spec.service_ms
        k = mean**2 / max(variance, 1e-12 * mean**2)
        z = norm.ppf(spec.percentile)
        self.latency = mean * max(1 - 1 / (9 * k) + z / math.sqrt(9 * k), 0.0) ** 3
        if spec.timeout_ms > 0:
            self.late = 1 - norm.cdf(_gamma_normal(mean, variance, spec.timeout_ms))
        good = served * norm.cdf(_gamma_normal(mean, variance, spec.objective_ms))
        return served, good, overflow


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
