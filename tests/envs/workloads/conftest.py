"""Where the public traces are: TRACES_DIR, else ../shared/traces beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def traces_dir() -> Path:
    folder = Path(os.environ.get("TRACES_DIR", _ROOT.parent / "shared" / "traces"))
    if not folder.is_dir():
        pytest.skip(f"no public traces at {folder}: set TRACES_DIR to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    folder = Path(os.environ.get("GOLDEN_DIR", _ROOT.parent / "shared" / "golden"))
    if not folder.is_dir():
        pytest.skip(f"no reference results at {folder}: set GOLDEN_DIR to the folder with them")
    return folder
