"""What is legal in a cluster, and what happens by itself."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.kernels.codes import Information, QuotaMode

__all__ = ["Semantics"]


@dataclass(frozen=True)
class Semantics:
    """What is legal, and what happens by itself; fixed for the life of a cluster.

    Parameters
    ----------
    min_run_ms : int
        A job may not be preempted before it has run for this long.
    preemption_limit : int
        Preemptions per decision point.
    slowdown_bound_ms : int
        Run time below which slowdowns are bounded.
    commitment : bool
        A chosen job is waited for.
    backfill : bool
        Others may run meanwhile, if they do not delay it.
    resize : bool
        Policies may resize running elastic jobs.
    migrate : bool
        Policies may move running preemptible jobs.
    quota_mode : QuotaMode
        How tenants' quotas bind.
    ageing_ms : int
        Time since submission that is worth one priority class; 0: none.
    information : Information
        What policies may know of run times.
    """

    min_run_ms: int = 0
    preemption_limit: int = 16
    slowdown_bound_ms: int = 10_000
    commitment: bool = False
    backfill: bool = False
    resize: bool = True
    migrate: bool = True
    quota_mode: QuotaMode = QuotaMode.NONE
    ageing_ms: int = 0
    information: Information = Information.ESTIMATE
