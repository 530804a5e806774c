"""Policies as YAML, and the scheduler's components as configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import Placement, Preemption, RuleKey, Topology
from orchestrator.kernels.state.records import REQUEST_DTYPE
from orchestrator.scheduling.rules import (
    FILTERS,
    BinPacker,
    GangScheduler,
    Rule,
    TopologyAwareScheduler,
    parse_profile,
    read_profile,
)

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
