"""What is said to the engine is checked before it is logged, whoever says it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator.engine.checks import check_message
from orchestrator.errors import ValidationError
from orchestrator.kernels.state.codes import NODE_CHOICE, Placement
from orchestrator.messages import (
    CheckpointCommitted,
    Decide,
    Decommission,
    MigrateJob,
    NodeFailed,
    PlaceJob,
    Plan,
    Preempt,
    PreemptJob,
    Register,
    ResizeJob,
    Review,
    Scale,
    Submit,
    Wait,
    WorkerExited,
    WorkersLost,
)
from tests.engine.builders import job, node

_ANY: Any = None

MALFORMED = (
    None,
    "submit",
    Submit(_ANY),
    Submit(node("n")),  # type: ignore[arg-type]
    Register(job("a")),  # type: ignore[arg-type]
    Scale("a", _ANY),
    Scale("a", "4"),  # type: ignore[arg-type]
    Scale("a", 2**70),
    Scale("a", -1),
    Scale("a", 1.5),  # type: ignore[arg-type]
    Scale("a", True),
    Scale(7, 1),  # type: ignore[arg-type]
    Scale("\ud800", 1),
    Preempt("a", 3),  # type: ignore[arg-type]
    Decommission("n", "no"),  # type: ignore[arg-type]
    NodeFailed(0),  # type: ignore[arg-type]
    WorkerExited("a", "1"),  # type: ignore[arg-type]
    WorkerExited("a", 1, 2**40),
    WorkerExited("a", 1, float("nan")),  # type: ignore[arg-type]
    CheckpointCommitted("a", -1),
    WorkersLost("a", 1, _ANY),
    Decide(_ANY),
    Decide([PlaceJob("a")]),  # type: ignore[arg-type]
    Decide(Plan([PlaceJob("a")])),  # type: ignore[arg-type]
    Decide(Plan((_ANY,))),
    Decide(Plan(("wait",))),  # type: ignore[arg-type]
    Decide(Plan((PlaceJob("a", 99),))),  # type: ignore[arg-type]
    Decide(Plan((PlaceJob("a", "best_fit"),))),  # type: ignore[arg-type]
    Decide(Plan((PlaceJob(1),))),  # type: ignore[arg-type]
    Decide(Plan((ResizeJob("a", 2**40),))),
    Decide(Plan((MigrateJob("a", -1),))),  # type: ignore[arg-type]
)

WELL_FORMED = (
    Submit(job("a")),
    Register(node("n")),
    Scale("a", np.int64(4)),  # type: ignore[arg-type]
    Scale("a", 0),
    Review(),
    WorkerExited("a", np.int32(1), np.int8(-9)),  # type: ignore[arg-type]
    Decide(Plan()),
    Decide(Plan((PlaceJob("a"), PreemptJob("b"), Wait()))),
    Decide(Plan((PlaceJob("a", Placement.FGD), ResizeJob("a", np.int64(2))))),  # type: ignore[arg-type]
    Decide(Plan((PlaceJob("a", NODE_CHOICE + 3),))),  # type: ignore[arg-type]
)


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body)[:50])
def test_what_is_malformed_is_refused(body: Any) -> None:
    with pytest.raises(ValidationError, match="field '"):
        check_message(body)


@pytest.mark.parametrize("body", WELL_FORMED, ids=lambda body: repr(body)[:50])
def test_what_is_well_formed_passes(body: Any) -> None:
    check_message(body)
