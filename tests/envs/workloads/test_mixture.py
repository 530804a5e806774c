"""Mixtures of generated workloads: blocks keep their own parameters, loads and machines."""

import numpy as np
import pytest

from envs.workloads import load_workload, lublin_mixture
from orchestrator.errors import ConfigurationError

DAY_MS = 86_400_000
WIDE = {
    "machines": [64, 256],
    "ranges": {"serial": [0.1, 0.5], "run_log_max": [11.0, 12.0]},
    "loads": [0.6, 1.2],
}


@pytest.fixture(scope="module")
def trace():
    return load_workload("lublin_mixture", jobs=10_100, seed=3, block=1000, **WIDE)


def blocks(trace):
    return np.array_split(trace.requests, 10)


def test_blocks_offer_loads_of_the_range_on_the_whole_machine(trace):
    assert trace.cpu_cores == 256
    loads = []
    for block in blocks(trace):
        span = float(block["submit_ms"][-1] - block["submit_ms"][0])
        work = (block["cpu_milli"] / 1000.0 * block["duration_ms"]).sum()
        loads.append(work / (256 * span))
    assert 0.59 < min(loads) < 0.9
    assert 0.9 < max(loads) < 1.21
    assert np.array_equal(trace.requests["duration_ms"], trace.requests["requested_ms"])
    assert trace.requests["duration_ms"].min() >= 1000


def test_jobs_of_a_smaller_machine_are_larger_in_proportion(trace):
    smallest = {int(block["cpu_milli"].min()) for block in blocks(trace)}
    assert smallest == {1000, 4000}
    assert max(int(block["cpu_milli"].max()) for block in blocks(trace)) <= 256_000
    shares = [(block["cpu_milli"] == block["cpu_milli"].min()).mean() for block in blocks(trace)]
    assert max(shares) - min(shares) > 0.1  # the share of serial jobs is drawn, too


def test_each_block_begins_on_a_later_day(trace):
    begins = [int(block["submit_ms"][0]) // DAY_MS for block in blocks(trace)]
    ends = [int(block["submit_ms"][-1]) // DAY_MS for block in blocks(trace)]
    assert all(begin > end for begin, end in zip(begins[1:], ends, strict=False))


def test_a_seed_decides_everything(trace):
    again = lublin_mixture(10_100, 3, block=1000, **WIDE)
    assert again == trace
    assert lublin_mixture(10_100, 4, block=1000, **WIDE).digest != trace.digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"machines": [96]}, "'machines' has 96, which does not divide 'processors', 256"),
        ({"ranges": {"serials": [0, 1]}}, "unknown parameter 'serials'; known: serial, power"),
        ({"ranges": {"serial": [0.5, 0.1]}}, r"'serial' is \[0.5, 0.1\]; give the lowest"),
        ({"loads": [0.0, 1.0]}, "the lowest of 'loads'"),
        ({"block": 1}, "'block'"),
    ],
)
def test_senseless_options_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        lublin_mixture(100, 0, **options)
