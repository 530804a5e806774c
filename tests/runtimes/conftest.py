"""Real agents and workers for tests, ended with each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.runtimes.cluster import Cluster
from tests.runtimes.stage import Stage


@pytest.fixture
async def stage(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """A runtime; its options are the test's parameter, if there is one."""
    made = Stage(tmp_path, **getattr(request, "param", {}))
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three nodes of four declared GPUs, not open yet."""
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        await made.close()
