"""What users import from ``agents``: every name is there, and listed once."""

from __future__ import annotations

import inspect

import pytest

import agents


@pytest.mark.parametrize("name", agents.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(agents, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__name__ == name
        assert found.__module__.startswith("agents.")
        assert inspect.getdoc(found)


def test_names_are_listed_once() -> None:
    assert len(set(agents.__all__)) == len(agents.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'evaluate_luck'"):
        _ = agents.evaluate_luck
