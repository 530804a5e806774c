"""The public interface of ``envs``: what programs are written with."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import gymnasium
import pytest

import envs


def _imports_of_checkers() -> dict[str, str]:
    """What type checkers are told to find where, by name."""
    tree = ast.parse(Path(envs.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        found |= {alias.name: str(node.module) for alias in node.names}
    return found


def test_checkers_and_programs_find_the_same() -> None:
    assert _imports_of_checkers() == envs._HOME_OF
    assert sorted(envs.__all__) == sorted(envs._HOME_OF)


@pytest.mark.parametrize("name", envs.__all__)
def test_a_name_is_what_its_module_exports(name: str) -> None:
    home = import_module(envs._HOME_OF[name])
    assert name in home.__all__
    assert getattr(envs, name) is getattr(home, name)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'envs' has no attribute 'Sesion'"):
        _ = envs.Sesion


def test_importing_registers_the_environments() -> None:
    known = {name for name in gymnasium.registry if name.startswith("quartermaster/")}
    names = ("JobOrdering", "Cluster", "Placement", "Autoscaling")
    assert known == {f"quartermaster/{name}-v0" for name in names}


def test_workloads_are_found_under_their_short_names_too() -> None:
    workloads = import_module("envs.workloads")
    for name in workloads.__all__:
        assert getattr(workloads, name) is getattr(envs, name)
