"""Where everything is in what a policy sees and answers: columns of features, heads of actions.

The one address of positions. A feature is added to its columns here and written where its set is
encoded; a head of actions is added to :data:`HEADS`, and to :func:`number` and :func:`decode` if it
is about something new. Names of features and heads are those of their members, in lower case:
digests of schemas, and with them bundles, depend on names and order.

Actions are numbered head by head:

``place`` [Q, K] | ``preempt`` [V] | ``shrink`` [E] | ``grow`` [E] | ``resize`` [E, Z] |
``migrate`` [V] | ``scale_in`` [c] | ``scale_out`` [c] | ``fewer_replicas`` [S] |
``more_replicas`` [S] | ``wait``

Heads that an environment does not have are of size 0.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.decide.elastic import fewer_workers
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.place.generate import chosen_node
from orchestrator.kernels.state.access import job, service
from orchestrator.kernels.state.codes import NO_JOB, NODE_CHOICE, ActionKind, Placement

__all__ = [
    "CANDIDATE_NAMES",
    "CAPACITY_NAMES",
    "CLUSTER_EXTRA",
    "DEFAULT_NAMES",
    "ELASTIC_NAMES",
    "FLEET_NAMES",
    "FULL_EXTRA",
    "GLOBAL_NAMES",
    "HEADS",
    "NODE_NAMES",
    "POD_NAMES",
    "POOL_NAMES",
    "PUBLISHED_NAMES",
    "RACK_NAMES",
    "SERVICE_NAMES",
    "SETS",
    "SIZE_NAMES",
    "SURROUNDINGS",
    "TENANT_NAMES",
    "VICTIM_NAMES",
    "ActionHead",
    "CandidateColumn",
    "CapacityColumn",
    "ElasticColumn",
    "FleetColumn",
    "GlobalColumn",
    "HeadSpec",
    "Maximum",
    "NodeColumn",
    "PodColumn",
    "PoolColumn",
    "PublishedColumn",
    "QueueColumn",
    "RackColumn",
    "Resizing",
    "ServiceColumn",
    "ShareColumn",
    "Shown",
    "SizeChoice",
    "SizeColumn",
    "StaticColumn",
    "TenantColumn",
    "VectorPart",
    "VictimColumn",
    "decode",
    "head_of",
    "head_offsets",
    "nodes_changed",
    "number",
]


# --- features ------------------------------------------------------------------------------------


class PublishedColumn(IntEnum):
    """A queued job under the ``PUBLISHED`` encoding."""

    WAIT = 0  # w / 43,200, below 1
    REQUEST_TIME = 1  # r / longest of the trace, below 1
    PROCESSORS = 2  # p / P, below 1
    MEMORY = 3  # 0: the logs do not hold it
    USER = 4  # number / highest of the trace, below 1
    GROUP = 5  # number / highest of the trace, below 1
    APPLICATION = 6  # number / highest of the trace, below 1
    FITS_NOW = 7  # about 1 if p units are free, else about 0


class QueueColumn(IntEnum):
    """A queued job: ``DEFAULT`` up to ``IS_SHORT``, ``CLUSTER`` to ``LOG_ATTAINED``, ``FULL`` all.

    Notation as in :mod:`orchestrator.kernels.see.queue`.
    """

    LOG_WAIT = 0  # .1 ln(1 + w)
    LOG_REQUEST = 1  # .1 ln r
    LOG_DEMAND = 2  # ln p / max(ln P, 1)
    FITS_NOW = 3  # 1 if p units are free
    LOG_TIME_TO_START = 4  # .1 ln(1 + d)
    LOG_SLOWDOWN = 5  # .2 ln(1 + w / m)
    LOG_QUEUE_COST_OF_WAITING = 6  # .1 ln(1 + W d)
    LOG_RELATIVE_TIME_TO_START = 7  # .2 ln(1 + d / m)
    SLACK = 8  # (free - p) / P
    LOG_AREA = 9  # ln(r p) / ln(10 P), roughly within [0, 2]
    LOG_RANK = 10  # ln(1 + position) / ln(1 + window)
    DEMAND_SHARE = 11  # p / P
    LOG_COST_OF_CHOOSING = 12  # .1 ln(1 + (d + r)(W - 1 / m))
    IS_SHORT = 13  # r < 10
    PRIORITY = 14  # 0 best effort .. 1 critical
    LOG_PREEMPTIONS = 15  # .5 ln(1 + preemptions so far)
    PROGRESS = 16  # share of the estimate that is done and saved
    LOG_WORKERS = 17  # .2 ln workers
    LOG_ATTAINED = 18  # .1 ln(1 + attained service in seconds of the whole capacity)
    TENANT_SHARE = 19  # its tenant's dominant share
    TENANT_EXCESS = 20  # that, beyond what its tenant is entitled to


class StaticColumn(IntEnum):
    """What does not change of a queued job, but under the ``PUBLISHED`` encoding.

    There it is :class:`PublishedColumn`, with the submit time instead of the wait and the demand
    instead of whether it fits.
    """

    SUBMIT = 0  # s since the first job's
    REQUEST = 1  # r
    SCALE = 2  # m
    LOG_SCALE = 3
    RATE = 4  # 1 / m
    BUCKET = 5  # demand in steps of the capacity, rounded up
    DEMAND = 6  # p
    LOG_REQUEST = 7  # this and what follows as in QueueColumn
    LOG_DEMAND = 8
    LOG_AREA = 9
    DEMAND_SHARE = 10
    SHORT = 11


class Maximum(IntEnum):
    """Largest values of a trace, by which the ``PUBLISHED`` encoding scales."""

    REQUEST = 0  # estimated run time, s
    USER = 1
    GROUP = 2
    APPLICATION = 3


class PodColumn(IntEnum):
    """A queued job under the ``PLACEMENT`` encoding."""

    GPUS = 0  # of all workers / 8
    GPU_SHARE = 1  # of each of them; 0 without GPUs
    SHARED = 2  # it asks for a part of a GPU
    CPU = 3  # of all workers, in shares of the largest node
    MEMORY = 4  # the same of memory
    ADMITTED = 5  # share of all GPUs that are of a model that will do
    PRIORITY = 6  # 0 best effort .. 1 critical
    LOG_WORKERS = 7  # .2 ln workers
    LOG_REQUEST = 8  # .1 ln(1 + estimated run time, s)
    LOG_WAIT = 9  # .1 ln(1 + time since its submission, s)


class GlobalColumn(IntEnum):
    """The cluster as a whole."""

    FREE_SHARE = 0  # free units / P
    LOG_QUEUE = 1  # .2 ln(1 + waiting jobs)
    LOG_QUEUE_RATE = 2  # .1 ln(.0001 + W)
    LOG_FIRST_RELEASE = 3  # .1 ln(1 + time until the first running job is expected to end, s)
    LOG_LAST_RELEASE = 4  # .1 ln(1 + time until the last one is, s)
    RUNNING = 5  # running jobs / 64
    LOG_QUEUED_AREA = 6  # .1 ln(1 + sum over the queue of r p / P)
    LOG_HIDDEN_QUEUE = 7  # .2 ln(1 + waiting jobs beyond the window)


class PoolColumn(IntEnum):
    """The cluster as a whole under the ``PLACEMENT`` encoding."""

    FREE_SHARE = 0  # of the GPUs that are up
    CPU_FREE_SHARE = 1  # of the CPU of all nodes
    MEMORY_FREE_SHARE = 2  # of the memory of all nodes
    FRAGMENTED_SHARE = 3  # expected share of all GPUs that typical pods could not use
    WHOLE_SHARE = 4  # GPUs that are entirely free
    EMPTY_NODES = 5  # share of nodes on which nobody is
    LOG_QUEUE = 6  # .2 ln(1 + waiting jobs)


class CandidateColumn(IntEnum):
    """A candidate placement of a queued job."""

    FEASIBLE = 0  # 1 if it exists
    SPREAD = 1  # nodes touched / workers
    CROSSES_RACKS = 2  # 0 one node, .5 one rack, 1 several racks
    ROOM_LEFT = 3  # free share of the touched nodes after the placement
    FAILURES = 4  # .5 ln(1 + failures of its worst node)
    DUPLICATE = 5  # the same nodes as an earlier candidate of this job


class NodeColumn(IntEnum):
    """A node as a place for a job; all 0 where the job does not fit."""

    FEASIBLE = 0  # 1 if the job fits
    GPU_FREE_BEFORE = 1  # share of its GPUs
    GPU_FREE_AFTER = 2  # the same once the gang is on it; and so on
    WHOLE_FREE_AFTER = 3  # share of its GPUs that are entirely free
    CPU_FREE_AFTER = 4  # share of its CPU
    MEMORY_FREE_AFTER = 5  # share of its memory
    IMBALANCE_AFTER = 6  # |share of CPU free - share of GPUs free|
    DEVICE_LEFT = 7  # free share of the devices taken, once they are
    FRAGMENTATION_BEFORE = 8  # F / its GPUs: what typical pods could not use
    FRAGMENTATION_CHANGE = 9  # of F by the placement, GPUs
    GRADIENT = 10  # FGD's score / 50 - 1: the highest, of equals the first, is its choice
    USED = 11  # somebody is on it
    SIZE = 12  # GPUs / 8
    FAILURES = 13  # .5 ln(1 + failures)
    MODEL_FREE = 14  # free share of all GPUs of its model
    MODEL_DEMAND = 15  # share of typical pods' GPUs that must be of its model (or one of a few)
    RACK_FREE = 16  # free share of its rack's GPUs


class VictimColumn(IntEnum):
    """A running job that may be preempted, or moved."""

    LOG_REMAINING = 0  # .1 ln(1 + estimated work left, s)
    LOG_ELAPSED = 1  # .1 ln(1 + time since its start, s)
    LOG_UNSAVED = 2  # .1 ln(1 + work since its last checkpoint, s)
    DEMAND_SHARE = 3  # capacity that it holds / P
    LOG_PREEMPTIONS = 4  # .5 ln(1 + preemptions so far)
    PRIORITY = 5  # 0 best effort .. 1 critical
    LOG_CHECKPOINT_COST = 6  # .1 ln(1 + checkpoint and restart, s)
    HELPS = 7  # without it the first waiting job would fit


class ElasticColumn(IntEnum):
    """A running elastic job that may be resized."""

    LOG_REMAINING = 0  # .1 ln(1 + estimated work left, s)
    SIZE = 1  # workers now / workers asked for, -1
    ROOM_BELOW = 2  # (workers - minimum) / workers asked for
    ROOM_ABOVE = 3  # (maximum - workers) / workers asked for
    GAIN = 4  # speed gained by one more worker, relative to its share of the workers asked for
    LOSS = 5  # speed lost by one fewer, likewise
    DEMAND_SHARE = 6  # capacity that it holds / P
    PRIORITY = 7  # 0 best effort .. 1 critical
    LOG_REGROUP = 8  # .1 ln(1 + cost of a regroup, s)
    LOG_SINCE_CHANGE = 9  # .1 ln(1 + time since its size last changed, s)


class SizeChoice(IntEnum):
    """Sizes that a running elastic job may be given, where a policy chooses among them."""

    FEWEST = 0
    ONE_LESS = 1
    ASKED = 2
    ONE_MORE = 3
    FASTEST = 4  # of those that it may have and that find a place now, with which it is fastest


class SizeColumn(IntEnum):
    """A size that a running elastic job may be given; the first are which of the choices it is."""

    IS_FEWEST = 0
    IS_ONE_LESS = 1
    IS_ASKED = 2
    IS_ONE_MORE = 3
    IS_FASTEST = 4
    CHANGE = 5  # (size - workers now) / workers asked for
    LENT = 6  # size / workers asked for, -1
    GAIN = 7  # speed gained / nominal speed, at most 4
    SAVED = 8  # .1 ln(1 + s) of the estimated time that it saves; negative: that it costs
    FREE_AFTER = 9  # free share of the cluster after the change
    LETS_IN = 10  # it frees what the first waiting job lacks, by capacity
    LONGER = 11  # .1 ln(1 + s) of estimated work left, if it gives workers back; else 0
    SHORTER = 12  # the same if it gets more


class ServiceColumn(IntEnum):
    """An inference service."""

    LOG_RATE = 0  # .1 ln(1 + requests per second in the last tick)
    USE = 1  # that rate / what the ready replicas can serve, at most 4
    USE_AHEAD = 2  # the same of the forecast rate
    USE_IF_FEWER = 3  # the higher of the two, if there were one replica fewer
    USE_IF_MORE = 4  # ... one more
    STARTING = 5  # replicas that are not ready yet / all
    LOG_REPLICAS = 6  # .2 ln(1 + replicas)
    ROOM_BELOW = 7  # (replicas - fewest) / most
    ROOM_ABOVE = 8  # (most - replicas) / most
    LATENCY = 9  # .5 ln(1 + latency of the last tick / objective)
    LOG_BACKLOG = 10  # .1 ln(1 + requests waiting)
    MISSED = 11  # share of the last tick's requests that were not answered in time
    BREAKER = 12  # 1 if the breaker of a sick replica is open, .5 half-open
    LOG_SINCE_CHANGE = 13  # .1 ln(1 + time since replicas were last changed, s)
    DEMAND_SHARE = 14  # of the cluster that its replicas hold


class CapacityColumn(IntEnum):
    """A change of the fleet."""

    NODES = 0  # ordered (given up: negative) / fleet
    USE_AFTER = 1  # capacity held by jobs / capacity of the fleet after the change, at most 4
    LOAD_AFTER = 2  # the same with what waiting jobs ask for
    SERVICES_AFTER = 3  # highest use ahead among services
    ARRIVING = 4  # nodes on order / fleet
    COST_AFTER = 5  # price of the fleet after the change / that of all nodes
    LOG_SINCE_CHANGE = 6  # .1 ln(1 + time since nodes were last ordered or given up, s)


class FleetColumn(IntEnum):
    """The fleet, behind the :class:`GlobalColumn`."""

    HOUR_SIN = 0  # sin of the time of day, a turn in 24 h
    HOUR_COS = 1  # cos of it
    WEEKDAY_SIN = 2  # sin of the time of the week, a turn in 7 days
    WEEKDAY_COS = 3  # cos of it
    IN_SERVICE = 4  # capacity of nodes that are up
    ON_ORDER = 5  # nodes on order / all nodes
    DOWN = 6  # nodes that are down / all nodes
    COST = 7  # price of what is paid for now / that of all nodes
    FRAGMENTATION = 8  # milli-GPUs that typical pods cannot use / all free ones
    BUSIEST_SERVICE = 9  # highest use ahead among services, at most 4
    MISSED = 10  # mean over services of the share of requests missed in the last tick
    TENANT_EXCESS = 11  # of the tenant furthest above its entitlement


class TenantColumn(IntEnum):
    """A tenant."""

    SHARE = 0  # dominant share of the cluster
    ENTITLED = 1  # by quota, or by weight where there are no quotas
    EXCESS = 2  # the difference
    WAITING = 3  # capacity that its waiting jobs ask for
    ATTAINED = 4  # service so far, as a share of the capacity so far


class RackColumn(IntEnum):
    """A rack."""

    IN_SERVICE = 0  # nodes that are up / its nodes
    FREE = 1  # free share of those
    WHOLE_FREE = 2  # GPUs that are entirely free / its GPUs
    LARGEST = 3  # entirely free GPUs of the node that has most of them / GPUs of a node
    FAILURES = 4  # .5 ln(1 + failures of its worst node)
    FRAGMENTATION = 5  # milli-GPUs that typical pods cannot use / its GPUs


class ShareColumn(IntEnum):
    """What is worked out of every tenant before anything is said of one."""

    SHARE = 0  # dominant share of the cluster
    ENTITLED = 1


class Shown(IntEnum):
    """Sets of jobs of which an encoding notes how many it shows."""

    JOBS = 0
    VICTIMS = 1
    ELASTICS = 2


def _names(columns: type[IntEnum]) -> tuple[str, ...]:
    return tuple(column.name.lower() for column in columns)


PUBLISHED_NAMES = _names(PublishedColumn)


_QUEUE_NAMES = _names(QueueColumn)


DEFAULT_NAMES = _QUEUE_NAMES[: QueueColumn.PRIORITY]


CLUSTER_EXTRA = _QUEUE_NAMES[QueueColumn.PRIORITY : QueueColumn.TENANT_SHARE]


FULL_EXTRA = _QUEUE_NAMES[QueueColumn.TENANT_SHARE :]


POD_NAMES = _names(PodColumn)


GLOBAL_NAMES = _names(GlobalColumn)


POOL_NAMES = _names(PoolColumn)


CANDIDATE_NAMES = _names(CandidateColumn)


NODE_NAMES = _names(NodeColumn)


VICTIM_NAMES = _names(VictimColumn)


ELASTIC_NAMES = _names(ElasticColumn)


SIZE_NAMES = _names(SizeColumn)


SERVICE_NAMES = _names(ServiceColumn)


CAPACITY_NAMES = _names(CapacityColumn)


FLEET_NAMES = _names(FleetColumn)


TENANT_NAMES = _names(TenantColumn)


RACK_NAMES = _names(RackColumn)


# --- actions -------------------------------------------------------------------------------------

SETS = ("queue", "candidates", "victims", "elastics", "services", "capacity", "sizes")
"""Sets of what actions are about, in the order in which an action's vector holds them."""


SURROUNDINGS = ("tenants", "racks")
"""Sets that no action is about."""


class Resizing(IntEnum):
    """How a policy may resize elastic jobs."""

    STEPS = 0
    """One worker more; or back to what was asked for, from there on one worker less."""
    SIZES = 1
    """To any of the :class:`SizeChoice` at once."""


class ActionHead(IntEnum):
    """Groups of actions, in the order of their numbers."""

    PLACE = 0
    PREEMPT = 1
    SHRINK = 2
    GROW = 3
    RESIZE = 4
    MIGRATE = 5
    SCALE_IN = 6
    SCALE_OUT = 7
    FEWER_REPLICAS = 8
    MORE_REPLICAS = 9
    WAIT = 10


class HeadSpec(NamedTuple):
    """What the actions of a head have in common."""

    kind: ActionKind
    sizes: tuple[str, ...]
    """Fields of an ``ActionLayout`` whose product is the number of actions."""
    sets: tuple[str, ...] = ()
    """Whose features describe an action."""
    step: int = 0
    """Whether something becomes smaller (-1) or larger (1)."""
    behind: ActionHead | None = None
    """The head behind whose entities its own are in the set."""


HEADS = {
    ActionHead.PLACE: HeadSpec(ActionKind.PLACE, ("window", "candidates"), ("queue", "candidates")),
    ActionHead.PREEMPT: HeadSpec(ActionKind.PREEMPT, ("victims",), ("victims",)),
    ActionHead.SHRINK: HeadSpec(ActionKind.RESIZE, ("elastics", "steps"), ("elastics",), -1),
    ActionHead.GROW: HeadSpec(ActionKind.RESIZE, ("elastics", "steps"), ("elastics",), 1),
    ActionHead.RESIZE: HeadSpec(ActionKind.RESIZE, ("elastics", "sizes"), ("elastics", "sizes")),
    ActionHead.MIGRATE: HeadSpec(ActionKind.MIGRATE, ("victims", "migrate"), ("victims",)),
    ActionHead.SCALE_IN: HeadSpec(ActionKind.CAPACITY, ("capacity_steps",), ("capacity",), -1),
    ActionHead.SCALE_OUT: HeadSpec(
        ActionKind.CAPACITY, ("capacity_steps",), ("capacity",), 1, ActionHead.SCALE_IN
    ),
    ActionHead.FEWER_REPLICAS: HeadSpec(ActionKind.SERVICE, ("services",), ("services",), -1),
    ActionHead.MORE_REPLICAS: HeadSpec(ActionKind.SERVICE, ("services",), ("services",), 1),
    ActionHead.WAIT: HeadSpec(ActionKind.WAIT, ("can_wait",)),
}


_COUNT = len(HEADS)


_CHOICES = len(SizeChoice)


_KINDS = np.array([spec.kind for spec in HEADS.values()], np.int64)


_STEPS = np.array([spec.step for spec in HEADS.values()], np.int64)


class VectorPart(IntEnum):
    """Columns of a layout of actions' vectors: a row for each set that describes a head."""

    FIRST_ACTION = 0  # of the head
    ACTIONS = 1  # of the head
    SET = 2  # index into SETS; -1: none
    SHARED_BY = 3  # actions that share an entity
    COLUMN = 4  # the set's first
    ONE_HOT = 5  # column that says which head it is; -1: none
    FIRST_ENTITY = 6  # of the head in the set


def head_offsets(layout: object) -> NDArray[np.int64]:
    """First action of each head, and the number of all actions, int64 [len(HEADS) + 1].

    ``layout`` has the fields that :data:`HEADS` names, as ``ActionLayout`` does.
    """
    sizes = [math.prod(int(getattr(layout, name)) for name in s.sizes) for s in HEADS.values()]
    return np.cumsum([0, *sizes], dtype=np.int64)


@small_kernel
def head_of(heads, action):
    """(head, place within it) of a flat action; head -1 if there is none of that number."""
    for h in range(_COUNT):
        if heads[h] <= action < heads[h + 1]:
            return np.int64(h), np.int64(action - heads[h])
    return np.int64(-1), np.int64(0)


@small_kernel
def nodes_changed(heads, action):
    """Nodes that an action of the fleet's heads orders, 1 .. c, or gives up, -1 .. -c."""
    h, i = head_of(heads, action)
    return _STEPS[h] * (i + 1)


@small_kernel
def _place_of(jobs, count, j):
    """Where a job is in a set, or -1."""
    for i in range(count):
        if jobs[i] == j:
            return np.int64(i)
    return np.int64(-1)


@small_kernel
def _shown(jobs, index, count):
    """The job at a place of a set, or NO_JOB."""
    return np.int64(jobs[index]) if index < count else np.int64(NO_JOB)


@small_kernel
def _enlarges(row, kind, j, value):
    """Whether an action makes a job, a service or the fleet larger."""
    if kind == ActionKind.RESIZE:
        return value > job(row, j).workers_now
    if kind == ActionKind.SERVICE:
        return value > job(row, service(row, j).job).workers_now
    return value > 0


@part
def _candidate_of(row, j, generator, view, nodes):
    """Which candidate of job ``j`` is what a generator proposes, or -1."""
    if view.generators[0] >= NODE_CHOICE:
        return chosen_node(row, j, generator, nodes)
    for k in range(view.generators.shape[0]):
        if view.generators[k] == generator:
            return np.int64(k)
    return np.int64(-1)


@small_kernel
def _choice_of(sizes, i, workers):
    """Place in the head of the first choice that gives elastic job ``i`` so many workers, or -1."""
    for c in range(_CHOICES):
        if sizes[i * _CHOICES + c] == workers:
            return np.int64(i * _CHOICES + c)
    return np.int64(-1)


@part
def _place_in_head(row, e, action, view, buffers, nodes):
    """Where an action is within its head, or -1 if the sets that are shown do not hold it."""
    kind, j, value = action
    shown = buffers.shown[e]
    if kind == ActionKind.PLACE:
        i = _place_of(buffers.window[e], shown[Shown.JOBS], j)
        k = np.int64(-1)
        if i >= 0:
            # With commitment there is one candidate, whatever a rule would place by.
            k = np.int64(0) if row.commitment != 0 else _candidate_of(row, j, value, view, nodes)
        return i * view.generators.shape[0] + k if k >= 0 else np.int64(-1)
    if kind == ActionKind.PREEMPT or kind == ActionKind.MIGRATE:
        return _place_of(buffers.victim_jobs[e], shown[Shown.VICTIMS], j)
    if kind == ActionKind.RESIZE:
        i = _place_of(buffers.elastic_jobs[e], shown[Shown.ELASTICS], j)
        if view.heads[ActionHead.RESIZE] == view.heads[ActionHead.MIGRATE] or i < 0:
            return i
        return _choice_of(buffers.resize_to[e], i, value)
    if kind == ActionKind.CAPACITY:  # the largest step, if a rule takes a larger one
        return np.int64(min(abs(value), row.capacity_steps) - 1)
    return np.int64(j) if kind == ActionKind.SERVICE else np.int64(0)


@part
def number(row, e, action, view, buffers, nodes):
    """Flat number of an action (kind, job, value), or -1 if the sets shown do not hold it.

    The action is as ``commit`` takes it; ``e`` is where in the buffers the row is described.
    """
    kind, j, value = action
    i = _place_in_head(row, e, action, view, buffers, nodes)
    larger = _enlarges(row, kind, j, value)
    found = np.int64(-1)
    for h in range(_COUNT):
        if _KINDS[h] == kind and (_STEPS[h] == 0 or (_STEPS[h] > 0) == larger):
            if 0 <= i < view.heads[h + 1] - view.heads[h]:
                found = view.heads[h] + i
    return found


@kernel
def decode(row, e, action, view, buffers):
    """(kind, job, value) of a flat action, as ``commit`` takes them.

    An action without an object has job NO_JOB, and one that does not exist has kind -1.
    """
    value = np.int64(Placement.FIRST_FIT)
    h, i = head_of(view.heads, action)
    if h < 0:
        return np.int64(-1), np.int64(0), value
    kind, step, shown = _KINDS[h], _STEPS[h], buffers.shown[e]
    if kind == ActionKind.WAIT:
        return kind, np.int64(0), value
    if kind == ActionKind.PLACE:
        K = view.generators.shape[0]
        j = _shown(buffers.window[e], i // K, shown[Shown.JOBS])
        return kind, j, np.int64(view.generators[i % K])
    if kind == ActionKind.RESIZE and step == 0:
        j = _shown(buffers.elastic_jobs[e], i // _CHOICES, shown[Shown.ELASTICS])
        return kind, j, np.int64(buffers.resize_to[e, i])
    if kind == ActionKind.RESIZE:
        j = _shown(buffers.elastic_jobs[e], i, shown[Shown.ELASTICS])
        if j >= 0:
            more = np.int64(job(row, j).workers_now) + 1
            value = more if step > 0 else fewer_workers(row, j)
        return kind, j, value
    if kind == ActionKind.CAPACITY:
        return kind, np.int64(NO_JOB), nodes_changed(view.heads, action)
    if kind == ActionKind.SERVICE:
        if i < row.num_services:
            value = np.int64(job(row, service(row, i).job).workers_now) + step
        return kind, i, value
    j = _shown(buffers.victim_jobs[e], i, shown[Shown.VICTIMS])
    return kind, j, np.int64(view.generators[0]) if kind == ActionKind.MIGRATE else value
