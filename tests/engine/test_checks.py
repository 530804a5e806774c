"""What is said to the engine is checked before it is logged, whoever says it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator import messages
from orchestrator.engine.checks import check_message
from orchestrator.errors import ValidationError
from orchestrator.kernels.state.codes import NODE_CHOICE, Placement
from tests.engine.builders import job, node
from tests.engine.sizes import fleet, seen, sizing, tick

said: Any = messages  # unchecked: most of what follows is wrong on purpose

MALFORMED = (
    None,
    "submit",
    said.Submit(None),
    said.Submit(node("n")),
    said.Register(job("a")),
    said.Scale("a", None),
    said.Scale("a", "4"),
    said.Scale("a", 2**70),
    said.Scale("a", -1),
    said.Scale("a", 1.5),
    said.Scale("a", True),
    said.Scale(7, 1),
    said.Scale("\ud800", 1),
    said.Preempt("a", 3),
    said.Decommission("n", "no"),
    said.NodeFailed(0),
    said.WorkerExited("a", "1"),
    said.WorkerExited("a", 1, 2**40),
    said.WorkerExited("a", 1, float("nan")),
    said.CheckpointCommitted("a", -1),
    said.WorkersLost("a", 1, None),
    said.WorkerExited("a", 1, 0, 7),
    said.WorkerExited("a", 1, 0, "\ud800"),
    said.JobOverdue("a", "1"),
    said.JobOverdue("a", 1, None),
    said.Decide(said.Plan((said.PreemptJob("a", 7),))),
    said.Decide(said.Plan((said.MigrateJob("a", None),))),
    said.Decide(None),
    said.Decide([said.PlaceJob("a")]),
    said.Decide(said.Plan([said.PlaceJob("a")])),
    said.Decide(said.Plan((None,))),
    said.Decide(said.Plan(("wait",))),
    said.Decide(said.Plan((said.PlaceJob("a", 99),))),
    said.Decide(said.Plan((said.PlaceJob("a", "best_fit"),))),
    said.Decide(said.Plan((said.PlaceJob(1),))),
    said.Decide(said.Plan((said.ResizeJob("a", 2**40),))),
    said.Decide(said.Plan((said.MigrateJob("a", -1),))),
    said.Decide(said.Plan((said.ScaleService(1, 1),))),
    said.Decide(said.Plan((said.ScaleService("a", -1),))),
    said.Decide(said.Plan((said.ScaleFleet("1"),))),
    tick(tick_ms=0),
    tick(services=[seen()]),
    tick(services=(None,)),
    tick(services=(seen(), seen())),
    tick(services=tuple(seen(job_id=f"s{k}") for k in range(65))),
    tick(services=(seen(service_ms=0.0),)),
    tick(services=(seen(rate_rps=float("nan")),)),
    tick(services=(seen(latency_ms=-1.0),)),
    tick(services=(seen(ready=1.5),)),
    tick(services=(seen(breaker=3),)),
    tick(services=(seen(sizing=None),)),
    tick(services=(seen(sizing=sizing(target=float("inf"))),)),
    tick(fleet=None),
    tick(fleet=fleet(spare=-1)),
    tick(fleet=fleet(kind=None)),
    tick(fleet=fleet(kind="node")),
)

WELL_FORMED = (
    tick(),
    tick(fleet=fleet(kind=None, coming=0, spare=0)),
    said.Decide(said.Plan((said.ScaleService("a", 3), said.ScaleFleet(-1)))),
    said.Submit(job("a")),
    said.Register(node("n")),
    said.Scale("a", np.int64(4)),
    said.Scale("a", 0),
    said.Review(),
    said.WorkerExited("a", np.int32(1), np.int8(-9), "killed"),
    said.JobOverdue("a", 1, "late"),
    said.Decide(said.Plan((said.PlaceJob("a", None), said.PreemptJob("b", "why")))),
    said.Decide(said.Plan()),
    said.Decide(said.Plan((said.PlaceJob("a"), said.PreemptJob("b"), said.Wait()))),
    said.Decide(said.Plan((said.PlaceJob("a", Placement.FGD), said.ResizeJob("a", np.int64(2))))),
    said.Decide(said.Plan((said.PlaceJob("a", NODE_CHOICE + 3),))),
)


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body)[:50])
def test_what_is_malformed_is_refused(body: Any) -> None:
    with pytest.raises(ValidationError, match="field '"):
        check_message(body)


@pytest.mark.parametrize("body", WELL_FORMED, ids=lambda body: repr(body)[:50])
def test_what_is_well_formed_passes(body: Any) -> None:
    check_message(body)
