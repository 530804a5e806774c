"""The request path is measured beside direct calls; Envoy where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agents.speed.live.requests import REQUESTS
from agents.speed.workbench import UnavailableError, Workbench

QUICK = Workbench(requests=40, repeats=1)
_BY_NAME = {measure.__name__: measure for measure in REQUESTS}


@pytest.mark.parametrize("name", ["request_mesh", "request_port", "request_port_tail"])
def test_what_a_way_adds_is_told_beside_a_direct_call(name: str) -> None:
    found = _BY_NAME[name](QUICK)
    assert found.unit == "ms"
    assert found.low <= found.value <= found.high
    assert "added to a direct call of" in found.note


def test_envoy_is_measured_or_it_says_why_not() -> None:
    installed = Path(sys.executable).with_name("envoy").exists()
    if installed:
        assert _BY_NAME["request_envoy"](QUICK).unit == "ms"
    else:
        with pytest.raises(UnavailableError, match="envoy"):
            _BY_NAME["request_envoy"](QUICK)


@pytest.mark.parametrize("mode", ["sick_killed"])
def test_a_sick_backend_is_shut_out_and_no_caller_notices(mode: str) -> None:
    found = _BY_NAME[mode](QUICK)
    assert 0.0 < found.value < 5000.0
    assert " 0 of " in found.note
