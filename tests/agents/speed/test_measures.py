from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from agents.plots.results import draw_speed
from agents.speed.clock import bytes_per_step, copy_seconds, python_event_loop, rate
from agents.speed.measures import MEASURES
from agents.speed.table import (
    Ratio,
    SpeedSuite,
    Target,
    print_speed,
    run_speed_suite,
    write_speed,
)
from agents.speed.workbench import Workbench
from envs.config import JOB_ORDERING
from envs.session import Session
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError

QUICK = Workbench(
    rows=4,
    steps=20,
    single_steps=100,
    windows=2,
    length=64,
    requests=50,
    waiting=60,
    large=80,  # a tenth of them holds the largest gang
    commands=128,
    history=60,
    known=400,
    decisions=4,
    futures=4,
    real_jobs=20,
    repeats=2,
)


def test_rate_is_the_median():
    spent = iter([1.0, 4.0, 2.0])
    found = rate(lambda: next(spent), 8, "jobs/s", 3)
    assert (found.value, found.low, found.high) == (4.0, 2.0, 8.0)


def test_bytes_of_a_step():
    session = Session(lublin_feitelson(500, 1), JOB_ORDERING, 3)
    features, layout = JOB_ORDERING.schema, JOB_ORDERING.schema.actions
    floats = layout.window * len(features.queue) + len(features.globals)
    # Mask: a byte for each action; reward 8, two flags, the reason 4.
    assert bytes_per_step(session) == 3 * (4 * floats + layout.size + 8 + 2 + 4)


def test_references_take_time():
    assert copy_seconds(1000, 10, time.perf_counter) > 0
    jobs = lublin_feitelson(200, 1).requests
    assert python_event_loop(jobs, 256_000, time.thread_time) > 0


@pytest.mark.parametrize(
    "name",
    ["copy_bound", "copy_bound_published", "python_loop", "vector_published", "vector_default",
     "vector_copied", "single", "branches", "replay_sjf", "replay_wfp3", "memory",
     "routing", "shut_out",
     "live_cycle", "live_cycle_priority", "live_cycle_large",
     "live_construct", "live_register", "live_job_status", "live_questions",
     "live_list_jobs", "live_queue", "live_end",
     "live_memory", "twin_when", "twin_when_large", "twin_beside",
     "learned_decision_64", "sized_tick_1000",
     "durable_one", "durable_many", "durable_submits", "restart", "log_size",
     "first_instruction", "real_jobs", "durable_jobs", "rest_submit", "rest_submit_late",
     "cli_cold_start"],
)  # fmt: skip
def test_measures(name):
    found = MEASURES[name](QUICK)
    assert np.isfinite(found.value)
    assert 0 < found.low <= found.value <= found.high


def test_a_killed_members_shards_are_led_again():
    found = MEASURES["shards_led_again"](replace(QUICK, repeats=1, lease_ms=1000))
    assert (found.unit, found.low) == ("leases", found.high)
    assert found.low > 0.5  # nobody takes over before the lease has ended


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preempt_real", "elastic_killed", "save_stall"])
def test_measures_of_real_trainings(name):
    """The others are made by the same runs, and by the same functions."""
    found = MEASURES[name](replace(QUICK, repeats=1))
    assert np.isfinite(found.value)
    assert 0 <= found.low <= found.value <= found.high


def test_memory_is_bounded():
    assert MEASURES["memory"](QUICK).value < 1024


def test_what_cannot_be_measured_says_why():
    suite = SpeedSuite("s", ["philly"], QUICK)
    (outcome,) = run_speed_suite(suite)
    assert outcome.measure is None
    assert "TRACES_DIR" in outcome.reason


@pytest.mark.parametrize(("at_least", "holds"), [(1e-9, True), (1e9, False)])
def test_verdict(at_least, holds, tmp_path):
    suite = SpeedSuite(
        "s",
        ["python_loop", "replay_sjf"],
        QUICK,
        targets={"replay_sjf": Target(1.0, 1e12)},
        ratios=[Ratio("replay_sjf", "python_loop", at_least)],
    )
    outcomes = list(run_speed_suite(suite))
    console = Console(width=80)
    with console.capture() as capture:
        assert print_speed(suite, outcomes, console) is holds
    text = capture.get()
    assert ("BROKEN" in text) is not holds
    assert "✓" in text
    assert "✗" in text
    write_speed(suite, outcomes, tmp_path)
    draw_speed(tmp_path / "speed.png", suite, outcomes)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"summary.json", "table.md", "speed.png"}
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["ratios"][0]["holds"] is holds
    assert written["measures"]["python_loop"]["unit"] == "jobs/s"


def test_unknown_names_are_refused():
    with pytest.raises(ConfigurationError, match="unknown measurement 'warp'; known: copy_bound"):
        SpeedSuite("s", ["warp"], QUICK)
    with pytest.raises(ConfigurationError, match="a ratio needs 'single'"):
        SpeedSuite("s", ["memory"], QUICK, ratios=[Ratio("single", "memory", 1.0)])
    with pytest.raises(ConfigurationError, match="unknown clock 'sun'; known: wall, cpu"):
        Workbench(clock="sun")
