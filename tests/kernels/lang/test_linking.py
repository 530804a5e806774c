"""Inner kernels exist for other kernels only, and are otherwise like any other."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.kernels.change.jobs import set_state
from orchestrator.kernels.decide.legal import start_reason
from orchestrator.kernels.lang import linking
from orchestrator.kernels.lang.jit import entry
from orchestrator.kernels.state.codes import JobCode, Reason
from orchestrator.kernels.state.row import ClusterShape, allocate


@entry
def _spoil(rows, j: int, state: int) -> None:
    """A kernel that Python calls, around an inner one that raises."""
    set_state(rows[0], j, np.int64(state))


@entry
def _ask(rows, j: int) -> int:
    return start_reason(rows[0], j)


def test_numba_is_as_expected() -> None:
    """Else everything works, but compiles for twice as long: ``linking`` has to be looked at."""
    assert linking.installed


def test_an_inner_kernel_has_no_machine_code() -> None:
    state = allocate(ClusterShape(envs=1, jobs=1))
    assert Reason(_ask(state.rows, 0)) == Reason.NOT_QUEUED
    for compiled in start_reason.overloads.values():
        code, name = compiled._asdict()["library"], compiled.fndesc.llvm_func_name
        assert code.get_pointer_to_function(name) == 0
    with pytest.raises(TypeError, match="called by kernels only"):
        start_reason(state.rows[0], 0)


def test_what_an_inner_kernel_raises_arrives() -> None:
    state = allocate(ClusterShape(envs=1, jobs=1))
    with pytest.raises(RuntimeError, match="illegal transition"):
        _spoil(state.rows, 0, JobCode.COMPLETED)
