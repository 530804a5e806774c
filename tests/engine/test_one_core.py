"""One core: the simulator and the live orchestrator are the same machine."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.kernels.state.codes import LogKind
from orchestrator.scheduling.rules import RULES
from tests.engine.cases import Case, cases
from tests.engine.drivers import DRIVERS, Trace, drive_row, drive_rule

pytestmark = pytest.mark.property

_OTHERS = [name for name in DRIVERS if name != "row"]


def _require_same(name: str, case: Case) -> Trace:
    """Demand the same log, the same totals and the same hash of a driver and of the kernels."""
    assume(case.jobs)
    expected, found = drive_row(case), DRIVERS[name](case)
    assert found.log == expected.log
    assert found.totals == expected.totals
    assert found.log_hash == expected.log_hash
    return expected


@pytest.mark.parametrize("name", _OTHERS)
@given(case=cases(commitment=False))
def test_any_action_at_any_point(name: str, case: Case) -> None:
    _require_same(name, case)


@pytest.mark.parametrize("name", _OTHERS)
@given(case=cases(commitment=True))
def test_commitment(name: str, case: Case) -> None:
    _require_same(name, case)


@pytest.mark.parametrize("name", _OTHERS)
@given(case=cases(commitment=True, backfill=True))
def test_commitment_with_backfilling(name: str, case: Case) -> None:
    _require_same(name, case)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=settings().max_examples // 5)
@given(case=st.one_of(cases(commitment=False), cases(commitment=True, backfill=True)))
def test_a_rule_decides_alike(name: str, case: Case) -> None:
    assume(case.jobs)
    replayed, live = drive_rule(case, RULES[name])
    assert live.log == replayed.log
    assert live == replayed


@given(case=cases(commitment=False))
def test_another_history_has_another_hash(case: Case) -> None:
    assume(case.jobs)
    trace = drive_row(case)
    assume(any(kind == LogKind.PLACEMENT for _, kind, _, _ in trace.log))
    later = Case(
        case.nodes,
        tuple((submit + 1, spec) for submit, spec in case.jobs),
        tuple((time_ms + 1, kind, n) for time_ms, kind, n in case.incidents),
        case.semantics,
        case.seed,
    )
    assert drive_row(later).log_hash != trace.log_hash
