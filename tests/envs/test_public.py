"""What importing ``envs`` does, and the short names of workloads."""

from __future__ import annotations

from importlib import import_module

import gymnasium

import envs


def test_importing_registers_the_environments() -> None:
    known = {name for name in gymnasium.registry if name.startswith("quartermaster/")}
    names = ("JobOrdering", "Cluster", "Placement", "Autoscaling")
    assert known == {f"quartermaster/{name}-v0" for name in names}


def test_workloads_are_found_under_their_short_names_too() -> None:
    workloads = import_module("envs.workloads")
    for name in workloads.__all__:
        assert getattr(workloads, name) is getattr(envs, name)
