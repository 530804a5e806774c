"""What is said to the engine has the form that it was declared with.

Annotations bind nobody at run time. What a caller or a policy hands over is checked here, before it
is logged: an entry that cannot be applied would otherwise be met by every replica and at every
restart.
"""

from __future__ import annotations

import math
import numbers
from enum import IntEnum
from typing import NoReturn

from orchestrator.errors import ValidationError
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.kernels.state.codes import NODE_CHOICE, Placement
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import (
    Cancel,
    CheckpointCommitted,
    Command,
    Configure,
    Decide,
    Decommission,
    Entry,
    Establish,
    Event,
    FleetSeen,
    JobOverdue,
    Lead,
    MigrateJob,
    NodeFailed,
    NodeRecovered,
    PlaceJob,
    Plan,
    Preempt,
    PreemptJob,
    Register,
    ResizeJob,
    Review,
    Scale,
    ScaleFleet,
    ScaleService,
    ServiceSeen,
    Sizing,
    Submit,
    Tick,
    Undrain,
    Wait,
    WorkerExited,
    WorkersLost,
)
from orchestrator.semantics import Semantics
from orchestrator.types import JobSpec, NodeSpec, TenantSpec, is_unicode

__all__ = ["MOST_SERVICES", "check_entry", "check_message", "check_report"]


_MOST_WORKERS = 2**31 - 1  # that anybody may name; how many there may be, the shape says


_MOST_RUNS = 2**63 - 1


MOST_SERVICES = 64
"""Services that a :class:`Tick` tells of."""


_LEAST_MS = 1e-6  # that anything takes


_MOST_TIME_MS = 2**52  # 140,000 years, so that sums of times stay exact


_GENERATORS = frozenset(int(placement) for placement in Placement)


_EXIT_CODES = (-(2**31), 2**31 - 1)


def check_message(body: Command | Event) -> None:
    """Raise a :class:`ValidationError` unless a command or event is well formed.

    Whether it makes sense as things are is another question: see ``Engine.check``.
    """
    match body:
        case Submit(spec, awaits_order):
            _require_type(body, "spec", spec, JobSpec)
            _require_type(body, "awaits_order", awaits_order, bool)
        case Register(spec, rented):
            _require_type(body, "spec", spec, NodeSpec)
            _require_type(body, "rented", rented, bool)
        case Preempt(job_id, reason) | Cancel(job_id, reason):
            _require_text(body, "job_id", job_id)
            _require_text(body, "reason", reason)
        case Scale(job_id, workers):
            _require_text(body, "job_id", job_id)
            _require_integer(body, "workers", workers, 0, _MOST_WORKERS)
        case Decommission(node_id, drain):
            _require_text(body, "node_id", node_id)
            _require_type(body, "drain", drain, bool)
        case NodeFailed() | NodeRecovered() | Undrain():
            _require_text(body, "node_id", body.node_id)
            if isinstance(body, NodeFailed):
                _require_integer(body, "seen_ms", body.seen_ms, -1, _MOST_RUNS)
        case Review():
            pass
        case Configure():
            _require_text(body, "subject", body.subject)
        case Establish():
            _check_settings(body)
        case Lead(name, token):
            _require_text(body, "name", name)
            _require_integer(body, "token", token, 0, _MOST_RUNS)
        case Decide(plan):
            _check_plan(plan)
        case Tick():
            _check_tick(body)
        case WorkerExited() | CheckpointCommitted() | WorkersLost() | JobOverdue():
            _check_event(body)
        case _:
            raise ValidationError(
                f"entry {body!r:.80}", "body", "is no command and no event", "give one of messages"
            )


def check_report(event: object) -> None:
    """Raise a :class:`ValidationError` unless this is what a runtime may report."""
    if not isinstance(event, WorkerExited | CheckpointCommitted | WorkersLost | JobOverdue):
        _refuse("report", "event", event, "one of the events of messages")
    _check_event(event)


def check_entry(entry: object) -> None:
    """Raise a :class:`ValidationError` unless this can be an entry of a log."""
    if not isinstance(entry, Entry):
        _refuse("log", "entry", entry, "an Entry")
    _require_integer(entry, "time_ms", entry.time_ms, 0, _MOST_TIME_MS)
    _require_integer(entry, "term", entry.term, -1, _MOST_RUNS)
    _require_integer(entry, "done", entry.done, 0, _MOST_RUNS)


def _check_event(event: Event) -> None:
    _require_text(event, "job_id", event.job_id)
    _require_integer(event, "run", event.run, 0, _MOST_RUNS)
    if isinstance(event, WorkerExited):
        _require_integer(event, "exit_code", event.exit_code, *_EXIT_CODES)
    if not isinstance(event, CheckpointCommitted):
        _require_text(event, "reason", event.reason)
    if isinstance(event, WorkersLost):
        _require_integer(event, "seen_ms", event.seen_ms, -1, _MOST_RUNS)


def _check_settings(body: Establish) -> None:
    _require_type(body, "shape", body.shape, ClusterShape)
    _require_type(body, "semantics", body.semantics, Semantics)
    for field, kind in (("nodes", NodeSpec), ("tenants", TenantSpec)):
        _require_type(body, field, getattr(body, field), tuple)
        for one in getattr(body, field):
            _require_type(body, field, one, kind)
    _require_integer(body, "seed", body.seed, 0, _MOST_RUNS)
    _require_type(body, "awaits_order", body.awaits_order, bool)


def _check_tick(body: Tick) -> None:
    _require_integer(body, "tick_ms", body.tick_ms, 1, _MOST_TIME_MS)
    _require_type(body, "services", body.services, tuple)
    if len(body.services) > MOST_SERVICES:
        _refuse(body, "services", len(body.services), f"at most {MOST_SERVICES}")
    for seen in body.services:
        _require_type(body, "services", seen, ServiceSeen)
        _require_text(seen, "job_id", seen.job_id)
        _check_sizing(seen.sizing)
        for name in ("service_ms", "objective_ms"):
            _require_amount(seen, name, getattr(seen, name), _LEAST_MS)
        for name in ("rate_rps", "ahead_rps", "latency_ms", "missed_share", "backlog"):
            _require_amount(seen, name, getattr(seen, name), 0.0)
        _require_integer(seen, "slots", seen.slots, 1, _MOST_WORKERS)
        _require_integer(seen, "ready", seen.ready, 0, _MOST_WORKERS)
        _require_integer(seen, "breaker", seen.breaker, 0, len(BreakerMode) - 1)
    if len({seen.job_id for seen in body.services}) < len(body.services):
        _refuse(body, "services", [seen.job_id for seen in body.services], "each of them once")
    fleet = body.fleet
    _require_type(body, "fleet", fleet, FleetSeen)
    if fleet.kind is not None:
        _require_type(fleet, "kind", fleet.kind, NodeSpec)
    for name in ("coming", "spare", "surplus"):
        most = 0 if fleet.kind is None and name != "surplus" else _MOST_WORKERS
        _require_integer(fleet, name, getattr(fleet, name), 0, most)
    _check_sizing(fleet.sizing)
    _require_integer(fleet, "scaled_ms", fleet.scaled_ms, -_MOST_RUNS, _MOST_TIME_MS)
    _require_integer(fleet, "scaled_by", fleet.scaled_by, -_MOST_WORKERS, _MOST_WORKERS)


def _check_sizing(sizing: object) -> None:
    if not isinstance(sizing, Sizing):
        _refuse("Tick", "sizing", sizing, "a Sizing")
    for name in ("unit_capacity", "target", "tolerance"):
        _require_amount(sizing, name, getattr(sizing, name), 0.0)
    for name in ("min_size", "max_size", "step_up", "step_down"):
        _require_integer(sizing, name, getattr(sizing, name), 0, _MOST_WORKERS)
    for name in ("up_window_ms", "down_window_ms"):
        _require_integer(sizing, name, getattr(sizing, name), 0, _MOST_TIME_MS)


def _check_plan(plan: object) -> None:
    """A policy may return anything."""
    if not isinstance(plan, Plan):
        raise ValidationError(
            "Decide", "plan", f"is {plan!r:.80}", "have the policy return a Plan, or Plan() to wait"
        )
    _require_type(plan, "actions", plan.actions, tuple)
    for action in plan.actions:
        match action:
            case PlaceJob(job_id, generator) | MigrateJob(job_id, generator):
                _require_text(action, "job_id", job_id)
                if not (isinstance(action, PlaceJob) and generator is None):
                    _check_generator(action, generator)
            case PreemptJob(job_id, reason):
                _require_text(action, "job_id", job_id)
                _require_text(action, "reason", reason)
            case ResizeJob(job_id, workers):
                _require_text(action, "job_id", job_id)
                _require_integer(action, "workers", workers, 0, _MOST_WORKERS)
            case ScaleService(job_id, replicas):
                _require_text(action, "job_id", job_id)
                _require_integer(action, "replicas", replicas, 0, _MOST_WORKERS)
            case ScaleFleet(nodes):
                _require_integer(action, "nodes", nodes, -_MOST_WORKERS, _MOST_WORKERS)
            case Wait():
                pass
            case _:
                raise ValidationError(
                    "Plan", "actions", f"hold {action!r:.80}", "give actions only, of messages"
                )


def _check_generator(action: object, generator: object) -> None:
    """A placement generator, or a node by its number."""
    if isinstance(generator, IntEnum) and not isinstance(generator, Placement):
        _refuse(action, "generator", generator, "a Placement")
    number = _require_integer(action, "generator", generator, 0, _MOST_WORKERS)
    if number < NODE_CHOICE and number not in _GENERATORS:
        _refuse(action, "generator", generator, "a Placement")


def _refuse(subject: object, field: str, value: object, wanted: str) -> NoReturn:
    raise ValidationError(type(subject).__name__, field, f"is {value!r:.80}", f"give {wanted}")


def _require_type(subject: object, field: str, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        _refuse(subject, field, value, f"a {wanted.__name__}")


def _require_text(subject: object, field: str, value: object) -> None:
    if not (isinstance(value, str) and is_unicode(value)):
        _refuse(subject, field, value, "text that UTF-8 can hold")


def _require_amount(subject: object, field: str, value: object, least: float) -> None:
    wanted = f"a finite number of at least {least:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        _refuse(subject, field, value, wanted)
    if not (math.isfinite(value) and float(value) >= least):
        _refuse(subject, field, value, wanted)


def _require_integer(subject: object, field: str, value: object, least: int, most: int) -> int:
    if type(value) is not int and (
        isinstance(value, bool) or not isinstance(value, numbers.Integral)
    ):
        _refuse(subject, field, value, "an integer")
    if not least <= int(value) <= most:
        _refuse(subject, field, value, f"an integer from {least} to {most}")
    return int(value)
