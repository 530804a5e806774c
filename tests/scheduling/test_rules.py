"""Policies as YAML, and the scheduler's components as configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import (
    BinPacker,
    ClusterShape,
    ConfigurationError,
    Engine,
    Entry,
    FairShareScheduler,
    GangScheduler,
    JobPriority,
    JobSpec,
    NodeSpec,
    PlaceJob,
    Placement,
    Preemption,
    PriorityQueue,
    Reason,
    Review,
    Rule,
    RuleKey,
    Submit,
    TenantSpec,
    Topology,
    TopologyAwareScheduler,
    parse_profile,
    read_profile,
)
from orchestrator.kernels.state.codes import Elasticity
from orchestrator.kernels.state.records import REQUEST_DTYPE
from orchestrator.scheduling.rules import FILTERS

_TEXT = """
name: packing
sort: sjf
filters: [resources, topology]
score: {fgd: 2, spread: 0}
preemption: higher_score
strict_order: true
"""


def test_a_profile_is_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "packing.yaml"
    path.write_text(_TEXT)
    expected = Rule(
        "packing", RuleKey.SJF, Placement.FGD, preemption=Preemption.SCORE, blocking=True
    )
    assert read_profile(path) == expected


@pytest.mark.parametrize("elastic", list(Elasticity))
def test_every_way_to_lend_has_a_name(elastic: Elasticity) -> None:
    content = {"name": "lends", "sort": "srsf", "elastic": elastic.name.lower()}
    assert parse_profile(content) == Rule("lends", RuleKey.SRSF, elastic=elastic)


def test_whether_to_lend_is_not_how() -> None:
    with pytest.raises(ConfigurationError, match="'elastic' is True; say how: idle as before"):
        parse_profile({"name": "old", "sort": "srtf", "elastic": True})
    with pytest.raises(ConfigurationError, match="'elastic' is 'all'; choose from none, idle"):
        parse_profile({"name": "wrong", "sort": "srtf", "elastic": "all"})


@pytest.mark.parametrize("placement", list(Placement))
def test_every_placement_has_a_name(placement: Placement) -> None:
    rule = parse_profile({"name": "x", "sort": "fcfs", "score": placement.name.lower()})
    assert rule.placement == placement
    assert int(rule.to_record()["placement"][0]) == placement


_GOOD: dict[str, Any] = {"name": "x", "sort": "fcfs"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sort": "fastest"}, "'sort' is 'fastest'; choose from fcfs"),
        ({"score": "tetris"}, "'score' is 'tetris'; choose from first_fit"),
        ({"score": {"fgd": 1, "spread": 1}}, "'score' gives 2 placements"),
        ({"score": {}}, "'score' gives 0 placements"),
        ({"score": {"fgd": -1}}, "weighs fgd by -1"),
        ({"filters": ["colour"]}, "unknown filter 'colour'; known: " + ", ".join(FILTERS)),
        ({"filters": "topology"}, "give a list"),
        ({"preemption": "always"}, "'preemption' is 'always'; choose from none"),
        ({"strict_order": "yes"}, "'strict_order' is 'yes'"),
        ({"order": "fcfs"}, "unknown field 'order'"),
        ({"name": 3}, "'name' is 3"),
    ],
)
def test_errors_name_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        parse_profile(_GOOD | change)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_profile(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        read_profile(broken)
    with pytest.raises(ConfigurationError, match="is no mapping"):
        parse_profile("fcfs")
    with pytest.raises(ConfigurationError, match="'sort' is missing"):
        parse_profile({"name": "x"})


def test_components_select_kernels() -> None:
    rule = Rule("fcfs", RuleKey.FCFS)
    assert BinPacker(Placement.FGD).configure(rule).placement == Placement.FGD
    assert GangScheduler(strict_order=True).configure(rule).blocking
    assert TopologyAwareScheduler().configure(rule).placement == Placement.TIGHTEST
    assert TopologyAwareScheduler(prefer_close=False).configure(rule) == rule
    with pytest.raises(ConfigurationError, match="does not pack"):
        BinPacker(Placement.SPREAD)


def _waiting(*jobs: tuple[str, str, JobPriority]) -> Engine:
    """A cluster of one GPU on which one job of tenant ``busy`` runs and others wait."""
    node = NodeSpec("n", 1, 80.0, 8, 64.0, 100.0, "PCIe")
    tenants = [TenantSpec("busy"), TenantSpec("idle")]
    shape = ClusterShape(envs=1, jobs=8, nodes=1, devices=1)
    engine = Engine(shape, nodes=[node], tenants=tenants)
    for time_ms, (job_id, tenant, priority) in enumerate(jobs):
        spec = JobSpec(job_id, "", priority, 1, 1, 1.0, 1.0, 600, tenant=tenant)
        engine.handle(Entry(time_ms, Submit(spec)))
        if time_ms == 0:
            engine.handle(Entry(time_ms, Review()))
            assert engine.commit(PlaceJob(job_id, Placement.FIRST_FIT)).reason == Reason.OK
    return engine


def test_a_priority_queue_serves_by_class_and_a_fair_share_by_tenant() -> None:
    engine = _waiting(
        ("running", "busy", JobPriority.BATCH),
        ("early", "busy", JobPriority.BATCH),
        ("urgent", "busy", JobPriority.CRITICAL),
        ("other", "idle", JobPriority.BATCH),
    )
    snapshot = engine.snapshot()
    by_class = [job.job_id for job in PriorityQueue().order(snapshot)]
    by_share = [job.job_id for job in FairShareScheduler().order(snapshot)]
    assert by_class == ["urgent", "early", "other"]
    assert by_share[0] == "other"
    assert sorted(by_share) == sorted(by_class)


def test_order_and_preemption_are_of_one_kind() -> None:
    rule = Rule("fcfs", RuleKey.FCFS)
    assert PriorityQueue().configure(rule).preemption == Preemption.PRIORITY
    assert FairShareScheduler(Preemption.RECLAIM).configure(rule).key == RuleKey.DRF
    with pytest.raises(ConfigurationError, match="knows no classes"):
        PriorityQueue(Preemption.SCORE)
    with pytest.raises(ConfigurationError, match="does not go by shares"):
        FairShareScheduler(Preemption.PRIORITY)


def test_a_required_domain_goes_to_gangs_only() -> None:
    requests = np.zeros(3, REQUEST_DTYPE)
    requests["workers"] = 1, 4, 4
    requests["min_workers"] = 1, 4, 1
    requests["elastic"] = 0, 0, 1
    requests["topology"] = 0, 0, int(Topology.NODE)
    bound = TopologyAwareScheduler(Topology.RACK).require(requests)
    assert bound["topology"].tolist() == [0, int(Topology.RACK), int(Topology.NODE)]
    assert requests["topology"].tolist() == [0, 0, int(Topology.NODE)]
    assert GangScheduler.whole(requests).tolist() == [True, True, False]
