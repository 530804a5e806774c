"""Small tasks that evaluate in a moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs.config import JOB_ORDERING, EnvConfig
from envs.workloads import Trace, lublin_feitelson


@pytest.fixture(scope="session")
def trace() -> Trace:
    """Jobs whose run times are 10 s times a power of two: SJF can tell them apart in float32."""
    drawn = lublin_feitelson(2000, 3, load=0.9)
    requests = drawn.requests.copy()
    powers = np.clip(np.log2(requests["duration_ms"] / 10_000).round(), 0, 14).astype(np.int64)
    requests["duration_ms"] = requests["requested_ms"] = 10_000 * 2**powers
    return replace(drawn, requests=requests)


@pytest.fixture(scope="session")
def config() -> EnvConfig:
    return replace(JOB_ORDERING, episode_jobs=64)


@pytest.fixture(scope="session")
def starts() -> np.ndarray:
    return np.array([0, 300, 700, 1100, 1500, 1900], np.int64)
