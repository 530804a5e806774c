"""Seeded schedules of misfortune with real processes, and an independent checker.

The long form is ``make chaos-live``; a failure names its seed, and plays again by it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.chaos.live.plan import Job, Plan, Reign, Step, plan_of
from tests.chaos.live.run import Verdict, judge_all

_SEEDS = (3, 11, 26)

_TWO = {"num_workers": 2, "gpus_per_worker": 1, "priority": 2}
_JOBS = (Job(0.0, "j0", "deaf", 1.2, _TWO), Job(0.1, "j1", "plain", 0.8, _TWO))
_LONG = (Job(0.0, "j0", "deaf", 6.0, {**_TWO, "num_workers": 1}),)
_CUT = tuple(Step(1.0, "cut", pick, 3.6) for pick in (0.1, 0.5))  # of three nodes
_SOON: dict[str, Any] = {"storm_s": 5.0, "calm_s": 1.5}
_BROKEN = {
    # An agent is cut off: what runs there is started elsewhere before its lease is over ...
    "early": (
        Plan(1, jobs=_LONG, lease_s=2.0, detector="quick", steps=_CUT, **_SOON),
        "a job runs twice",
    ),
    # ... or lives on after it.
    "outlive": (
        Plan(2, jobs=_LONG, lease_s=0.8, steps=_CUT, **_SOON),
        "runs twice",
    ),
    "forget": (Plan(3, jobs=_JOBS, **_SOON), "has ended 0 times by the log"),
    "some": (Plan(4, jobs=_JOBS, **_SOON), "counts, and of [0, 1] only [0]"),
    "promise": (Plan(5, jobs=_JOBS, **_SOON), "was acknowledged and is not in the log"),
}
"""What is broken on purpose, a schedule that shows it, and what is found."""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """All schedules, carried out at once: most of the time they wait."""
    cases = {f"seed {seed}": (plan_of(seed), "") for seed in _SEEDS}
    cases |= {name: (plan, name) for name, (plan, _) in _BROKEN.items()}
    return asyncio.run(judge_all(cases, tmp_path_factory.mktemp("chaos")))


@pytest.mark.parametrize("seed", _SEEDS)
def test_nothing_is_lost_and_nothing_runs_twice(verdicts: dict[str, Verdict], seed: int) -> None:
    verdict = verdicts[f"seed {seed}"]
    assert not verdict.found, "\n".join([f"seed {seed}", *verdict.found, *verdict.happened])
    assert verdict.workers > 0
    assert verdict.entries > 0


@pytest.mark.parametrize("name", _BROKEN)
def test_what_is_broken_on_purpose_is_seen(verdicts: dict[str, Verdict], name: str) -> None:
    said = _BROKEN[name][1]
    assert any(said in found for found in verdicts[name].found), verdicts[name]


def test_a_schedule_is_a_function_of_its_seed() -> None:
    assert plan_of(7) == plan_of(7)
    kinds = {step.what for seed in range(200) for step in plan_of(seed).steps}
    assert len(kinds) == 14, kinds
    assert {reign.torn for seed in range(200) for reign in plan_of(seed).reigns} == {
        *("", "snapshot", "wal")
    }
    assert Reign().ends_at == 0
