"""How often to save a job: Young's interval, and Daly's estimate of what failures then cost."""

from __future__ import annotations

import math

from orchestrator.errors import ValidationError

__all__ = ["checkpoint_interval_ms", "expected_overhead", "gang_mtbf_ms"]


def gang_mtbf_ms(node_mtbf_ms: float, nodes: int) -> float:
    """Mean time between failures of a gang that any one of its nodes stops, ms.

    Parameters
    ----------
    node_mtbf_ms : float
        Of one node.
    nodes : int
        Nodes that the gang touches, at least 1.
    """
    if nodes < 1:
        raise ValidationError("gang", "nodes", f"is {nodes}", "give at least 1")
    return node_mtbf_ms / nodes


def checkpoint_interval_ms(cost_ms: float, mtbf_ms: float) -> int:
    """The time between checkpoints that loses least: sqrt(2 C MTBF).

    Young, "A first order approximation to the optimum checkpoint interval", CACM 1974; Daly, "A
    higher order estimate of the optimum checkpoint interval", FGCS 2006. It is the leading term of
    both, good where a checkpoint costs much less than the time between failures.

    Parameters
    ----------
    cost_ms : float
        C: time that a checkpoint takes, ms.
    mtbf_ms : float
        Mean time between failures of the job, ms (see :func:`gang_mtbf_ms`).

    Returns
    -------
    int
        Work between two checkpoints, ms, at least 1; never longer than the MTBF itself, which is
        where the approximation ends.

    Raises
    ------
    ValidationError
        For a negative cost or a time between failures that is not positive.
    """
    _require(cost_ms >= 0, "cost_ms", cost_ms, "give 0 or more")
    _require(mtbf_ms > 0, "mtbf_ms", mtbf_ms, "give a positive time")
    return max(1, round(min(math.sqrt(2.0 * cost_ms * mtbf_ms), mtbf_ms)))


def expected_overhead(
    interval_ms: float, cost_ms: float, restart_ms: float, mtbf_ms: float
) -> float:
    """Share of time beyond the work itself that checkpoints and failures cost (Daly 2006, eq. 20).

    Failures are exponential with mean ``mtbf_ms`` and may come while saving and restarting too:
    T/W - 1 with T = M exp(R/M) (exp((tau + C)/M) - 1) W / tau.

    Parameters
    ----------
    interval_ms : float
        tau: work between two checkpoints.
    cost_ms, restart_ms : float
        C and R: time of a checkpoint, and of starting again.
    mtbf_ms : float
        M.
    """
    _require(interval_ms > 0, "interval_ms", interval_ms, "give a positive time")
    _require(mtbf_ms > 0, "mtbf_ms", mtbf_ms, "give a positive time")
    grown = math.expm1((interval_ms + cost_ms) / mtbf_ms)
    return mtbf_ms * math.exp(restart_ms / mtbf_ms) * grown / interval_ms - 1.0


def _require(ok: bool, field: str, value: float, remedy: str) -> None:
    if not ok:
        raise ValidationError("checkpointing", field, f"is {value}", remedy)
