"""Shared fixtures, and how many random cases property tests drive."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from agents.speed.live.etcd import LocalEtcd

_ROOT = Path(__file__).resolve().parents[1]

# Compiling a kernel can take longer than any deadline; a failure must show again on the next run.
_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]
_common = settings(deadline=None, report_multiple_bugs=False, suppress_health_check=_SLOW_IS_FINE)
settings.register_profile("default", _common, max_examples=30, derandomize=True)
settings.register_profile("thorough", _common, max_examples=2000)  # make properties
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first: at the end nobody should wait for one of them alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is there now stays: whoever collects garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()


def _folder(variable: str, name: str) -> Path:
    """Folder of reference data: from the environment, else beside the repository."""
    folder = Path(os.environ.get(variable, _ROOT.parent / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set {variable} to the folder of {name} data")
    return folder


@pytest.fixture(scope="session")
def traces_dir() -> Path:
    """Public traces."""
    return _folder("TRACES_DIR", "traces")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Published reference results."""
    return _folder("GOLDEN_DIR", "golden")


def _etcd(folder: Path, members: int) -> Iterator[LocalEtcd]:
    from agents.speed.live.etcd import LocalEtcd, why_no_etcd  # a second, for those who ask

    if reason := why_no_etcd():
        pytest.skip(f"etcd: {reason}")
    cluster = LocalEtcd(folder, members)
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def etcd_member(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEtcd]:
    """One member of etcd, for all tests that let it live."""
    yield from _etcd(tmp_path_factory.mktemp("etcd"), 1)


@pytest.fixture(scope="session")
def etcd_trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEtcd]:
    """Three members of etcd. Whoever kills or stops one brings it back."""
    yield from _etcd(tmp_path_factory.mktemp("etcd"), 3)
