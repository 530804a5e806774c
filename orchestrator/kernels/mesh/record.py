"""The record of an inference service: what it is, how it is, and its totals."""

from __future__ import annotations

import numpy as np

__all__ = ["SERVICE_DTYPE"]

SERVICE_DTYPE = np.dtype(
    [
        # what it is: see orchestrator.mesh.specs.ServiceSpec
        ("service_ms", "f8"),  # mean time that a request holds a slot
        ("service_cv2", "f8"),  # squared coefficient of variation of that time
        ("arrival_cv2", "f8"),  # the same of the gaps between requests
        ("objective_ms", "f8"),  # a request should be answered within
        ("percentile", "f8"),  # of the response time that latency_ms reports
        ("timeout_ms", "f8"),  # an attempt is given up after; 0: never
        ("queue_limit", "f8"),  # most requests waiting; 0: no limit
        ("limit_rps", "f8"),  # rate limiter; 0: none
        ("limit_burst", "f8"),
        ("retry_budget", "f8"),  # retries that a request earns
        ("retry_floor_rps", "f8"),
        ("retry_reserve", "f8"),
        ("breaker_ratio", "f8"),
        ("sick_per_hour", "f8"),  # how often a ready replica begins to fail all its requests
        ("sick_ms", "i8"),  # and for how long
        ("breaker_window_ms", "i8"),
        ("breaker_open_ms", "i8"),
        ("breaker_failures", "i8"),
        ("breaker_minimum", "i8"),
        ("breaker_probes", "i8"),
        ("attempts", "i8"),  # of one request, the first included
        ("slots", "i8"),  # requests that a replica serves at a time
        ("job", "i8"),  # the job whose workers are the replicas
        # how it is
        ("tokens", "f8"),  # of its rate limiter
        ("retry_balance", "f8"),
        ("backlog", "f8"),  # requests waiting
        ("late_share", "f8"),  # attempts of the last tick that were given up
        ("rate_rps", "f8"),  # demand in the last tick
        ("utilisation", "f8"),
        ("missed_share", "f8"),  # of the last tick's requests, those not answered in time
        ("latency_ms", "f8"),  # the percentile in the last tick
        ("run_start_ms", "i8"),  # start of the run that `ready` belongs to
        ("breaker_since_ms", "i8"),
        ("sick_until_ms", "i8"),  # when the sick replica is well again
        ("scaled_ms", "i8"),  # when the number of its replicas was last changed on purpose
        ("scaled_by", "i8"),  # and by how many
        ("ready", "i8"),  # replicas that have started up
        ("sick", "i8"),  # of them sick, or still shut out: 0 or 1
        ("breaker_mode", "i8"),  # codes of mesh.breaker.BreakerMode: the sick replica's breaker
        ("breaker_in_row", "i8"),
        # totals of the episode
        ("offered", "f8"),  # requests
        ("within", "f8"),  # answered within the objective
        ("shed", "f8"),  # turned away by the limiter
        ("retried", "f8"),  # attempts beyond the first
        ("failed", "f8"),  # attempts turned away: a sick replica, a full queue, no replica
        ("served", "f8"),  # attempts that a healthy replica worked on, useful or not
        ("violations", "f8"),  # requests not answered within the objective
        ("replica_ms", "i8"),  # ready replicas, integrated over time
        ("overload_ticks", "i8"),  # ticks with more demand than the ready replicas can serve
    ],
    align=True,
)
"""An inference service: requests are a fluid, see docs/decisions/0006-services-as-fluid.md."""
