from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agents.speed.live import etcd
from agents.speed.measures import MEASURES
from agents.speed.table import SpeedSuite, run_speed_suite
from agents.speed.workbench import Workbench
from orchestrator.errors import ConfigurationError
from tests.runtimes.stage import alive

QUICK = Workbench(commands=128, repeats=1)


@pytest.mark.parametrize("name", ["durable_etcd", "etcd_leader_killed"])
def test_measures(name, monkeypatch):
    if reason := etcd.why_no_etcd():
        pytest.skip(f"etcd: {reason}")
    monkeypatch.setattr(etcd, "_BEFORE_S", 0.2)
    monkeypatch.setattr(etcd, "_AFTER_S", 0.5)
    found = MEASURES[name](QUICK)
    assert 0 < found.low <= found.value <= found.high


@pytest.mark.parametrize("name", ["durable_etcd", "etcd_leader_killed"])
def test_what_cannot_be_measured_says_why(name, monkeypatch, tmp_path):
    monkeypatch.setenv("ETCD", "not-there")
    (outcome,) = run_speed_suite(SpeedSuite("s", [name], QUICK))
    assert outcome.measure is None
    assert "no program not-there; install it" in outcome.reason
    with pytest.raises(ConfigurationError, match="no program not-there"):
        etcd.LocalEtcd(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "program", "status", "said"),
    [
        ([], "etcd", 2, "usage: scripts/etcd_local.sh FOLDER"),
        (["--help"], "etcd", 0, "usage: scripts/etcd_local.sh FOLDER"),
        (["{folder}"], "not-there", 1, "there is no program 'not-there'; install it"),
        (["{folder}", "many"], sys.executable, 1, "MEMBERS is 'many'; give 1 to 9"),
        (["{folder}", "1"], "false", 1, "a member has ended; look at {folder}/m1/log"),
    ],
)
def test_the_script_says_what_is_wrong(arguments, program, status, said, tmp_path):
    done = subprocess.run(
        [etcd._SCRIPT, *(one.format(folder=tmp_path) for one in arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "ETCD": program},
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    assert said.format(folder=tmp_path) in done.stdout + done.stderr


def test_a_cluster_that_was_ended_goes_on_where_it_was(tmp_path):
    if reason := etcd.why_no_etcd():
        pytest.skip(f"etcd: {reason}")
    first = etcd.LocalEtcd(tmp_path, 1)
    process = first._process(1)
    first.close()
    assert not alive(process.pid)
    second = etcd.LocalEtcd(tmp_path, 1)
    try:
        assert second.endpoints == first.endpoints
        assert second.leader() == 1
    finally:
        second.close()
