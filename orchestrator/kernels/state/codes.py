"""Integer codes of states, kinds and reasons, and which transitions of a job are legal."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = [
    "FOREVER_MS",
    "LEGAL_TRANSITIONS",
    "NEVER",
    "NODE_CHOICE",
    "NO_CHANGE_MS",
    "NO_JOB",
    "ActionKind",
    "EffectKind",
    "Elasticity",
    "EventKind",
    "Information",
    "JobCode",
    "JobKind",
    "LogKind",
    "NodeCode",
    "Placement",
    "Preemption",
    "QuotaMode",
    "Reason",
    "RuleKey",
    "Scaling",
    "Status",
    "Stream",
    "Topology",
]


NEVER = np.iinfo(np.int64).max
"""A time that does not come."""


FOREVER_MS = 1 << 40
"""The ``duration_ms`` of a service that does not end by itself: 35 years, and no less.

Its end is an event like any other, so far away that it is never waited for; see
``change.timeline.next_event``.
"""


NODE_CHOICE = 1 << 10
"""Placement generators from here on: "all workers on node ``generator - NODE_CHOICE``, or none"."""


NO_JOB = -1
"""The absence of a job where a job index is expected."""


class JobCode(IntEnum):
    """``JobState`` as stored in arrays; the names are the same."""

    PENDING = 0
    SCHEDULED = 1
    RUNNING = 2
    CHECKPOINTING = 3
    SCALING = 4
    COMPLETED = 5
    FAILED = 6
    PREEMPTED = 7
    ABSENT = 8
    """Not submitted yet (or an unused row of the job table)."""


def _legal_transitions() -> np.ndarray:
    edges = {
        JobCode.ABSENT: (JobCode.PENDING,),
        JobCode.PENDING: (JobCode.SCHEDULED, JobCode.FAILED),
        JobCode.SCHEDULED: (JobCode.RUNNING, JobCode.PENDING),
        JobCode.RUNNING: (
            JobCode.CHECKPOINTING,
            JobCode.SCALING,
            JobCode.COMPLETED,
            JobCode.FAILED,
            JobCode.PENDING,  # interrupted: its node failed, it queues again
        ),
        JobCode.CHECKPOINTING: (JobCode.PREEMPTED, JobCode.RUNNING, JobCode.PENDING),
        JobCode.SCALING: (JobCode.RUNNING, JobCode.PENDING, JobCode.FAILED),
        JobCode.PREEMPTED: (JobCode.SCHEDULED, JobCode.FAILED),
        JobCode.COMPLETED: (),
        JobCode.FAILED: (),
    }
    table = np.zeros((len(JobCode), len(JobCode)), dtype=np.uint8)
    for source, targets in edges.items():
        for target in targets:
            table[source, target] = 1
    table.setflags(write=False)
    return table


LEGAL_TRANSITIONS = _legal_transitions()
"""uint8 [from, to]: 1 where a job may go from one :class:`JobCode` to another."""


class NodeCode(IntEnum):
    """State of a node."""

    ABSENT = 0
    UP = 1
    DRAINING = 2
    DOWN = 3
    PROVISIONING = 4
    """Ordered by the autoscaler, not here yet."""


class EventKind(IntEnum):
    """What can happen. The value breaks ties at one instant: arrivals go first."""

    ARRIVAL = 0
    COMPLETION = 1
    CHECKPOINTED = 2
    NODE_RECOVERY = 3
    NODE_FAILURE = 4
    NODE_DRAIN = 5
    NODE_ARRIVAL = 6
    SERVICE_TICK = 7
    NONE = 8


class LogKind(IntEnum):
    """Kinds of records in the event log."""

    JOB_STATE = 0
    NODE_STATE = 1
    PLACEMENT = 2


class EffectKind(IntEnum):
    """What a change of state asks of a runtime."""

    START = 0
    """All workers of a job are to be started."""
    REGROUP = 1
    """The workers of a job are others from now on; those that stay are not restarted."""
    MOVE = 2
    """The same, and none of them stays: the job is saved and started again elsewhere."""
    SAVE = 3
    """A job is to be saved, in its place, and that is to be reported."""
    STOP = 4
    """A job is saved; its workers are to be stopped."""
    SAVE_AND_STOP = 5
    """The same of a job that is saved at no cost, so that nobody waited for its checkpoint."""
    INTERRUPT = 6
    """What is left of a job's workers is to be stopped: it falls back to its last checkpoint."""
    RELEASE = 7
    """A node that was to leave is empty."""


class ActionKind(IntEnum):
    """What a policy may decide."""

    WAIT = 0
    PLACE = 1
    PREEMPT = 2
    RESIZE = 3
    MIGRATE = 4
    CAPACITY = 5
    SERVICE = 6


class Status(IntEnum):
    """What :func:`orchestrator.kernels.decide.advance.advance` stopped at."""

    DECISION = 0
    DONE = 1


class Reason(IntEnum):
    """Why an action was, or was not, carried out."""

    OK = 0
    NOT_QUEUED = 1
    NO_CAPACITY = 2
    BLOCKED = 3
    NOT_RUNNING = 4
    NOT_PREEMPTIBLE = 5
    MIN_RUN_TIME = 6
    PREEMPTION_BOUND = 7
    NOTHING_TO_WAIT_FOR = 8
    UNKNOWN_ACTION = 9
    COMMITTED = 10
    QUOTA = 11
    STORAGE = 12
    BANDWIDTH = 13
    TOPOLOGY = 14
    NOT_ELASTIC = 15
    SIZE_BOUNDS = 16
    NO_BETTER_PLACE = 17
    NO_NODES = 18
    COOLDOWN = 19
    NOT_A_SERVICE = 20
    FRAGMENTED = 21
    """Enough is free, but scattered over nodes or devices so that the gang does not fit."""


class Placement(IntEnum):
    """Placement generators: how a gang's workers are spread over nodes."""

    FIRST_FIT = 0
    BEST_FIT = 1
    SPREAD = 2
    RANDOM = 3
    TIGHTEST = 4
    """The narrowest domain that holds the gang (node, rack, spine), best fit inside."""
    BUDDY = 5
    """Aligned cells of 2^k GPUs, split as little as possible (HiveD, OSDI 2020)."""
    DOT_PRODUCT = 6
    """The node whose free vector is least aligned with the request (Tetris, SIGCOMM 2014)."""
    GPU_PACKING = 7
    """GPUs in use first, then nodes in use, then empty nodes (FGD's simulator, ATC 2023)."""
    GPU_CLUSTERING = 8
    """Nodes that hold workers of the same number of GPUs (Gandiva, OSDI 2018)."""
    FGD = 9
    """Fragmentation gradient descent, node and device (Weng et al., ATC 2023)."""
    WORST_FIT = 10
    """The roomiest node, filled up; SPREAD goes on to another one after each worker."""
    BEST_FIT_FGD = 11
    """Best fit by the score that FGD's simulator compares with."""
    UNIFORM = 12
    """Any node that fits, all equally likely; RANDOM is first fit from a random node on."""


class RuleKey(IntEnum):
    """Sort keys of ordering rules; the lowest score goes first."""

    FCFS = 0
    SJF = 1
    SRTF = 2
    F1 = 3
    WFP3 = 4
    UNICEP = 5
    LARGEST = 6
    RANDOM = 7
    WFP3_COMPAT = 8
    UNICEP_COMPAT = 9
    SRSF = 10
    PRIORITY = 11
    """Priority class, lowered by one for every ``ageing_ms`` since its submission."""
    LAS = 12
    """Least attained service first."""
    TIRESIAS = 13
    """The same with queues instead of exact amounts, and promotion of the starving."""
    GITTINS = 14
    """Highest Gittins index of the attained service first."""
    QSSF = 15
    """Smallest predicted service first."""
    DRF = 16
    """Lowest weighted dominant share of its tenant first."""


class Preemption(IntEnum):
    """Whom a rule preempts to let a waiting job in."""

    NONE = 0
    SCORE = 1
    """Jobs of a higher score under the rule's own key, highest first."""
    PRIORITY = 2
    """Jobs of a lower priority class: the lowest class first, in it the cheapest to interrupt.
    Waiting jobs are served by class, then by score."""
    RECLAIM = 3
    """The same, and before them jobs with which another tenant exceeds its quota, when the waiting
    job stays within its own. Jobs within their tenant's quota are served before those beyond."""


class Elasticity(IntEnum):
    """How a rule resizes running elastic jobs when nothing can be placed."""

    NONE = 0
    IDLE = 1
    """While nobody waits, whoever gains most for each unit of capacity gets one more worker (the
    greedy allocation of AFS and Optimus: Hwang et al., NSDI 2021; Peng et al., EuroSys 2018). As
    soon as somebody waits, all that is lent comes back, most first."""
    SHORTEST = 2
    """The same, but the job that the rule would serve first grows, to the most at once."""
    KEEP = 3
    """Jobs that rank before the first that waits keep what they are lent, and get more. Those
    behind it give back what it needs, if that lets it in, before anybody is preempted for it."""
    FILL = 4
    """The same, and whatever nobody who waits can use is lent to those behind it, too."""


class Scaling(IntEnum):
    """How a rule, or the cluster by itself, changes the number of nodes and replicas."""

    NONE = 0
    REACTIVE = 1
    """By the demand there is."""
    PREDICTIVE = 2
    """By that or, where it is higher, by the demand that is forecast."""


class Information(IntEnum):
    """What a policy may know of run times."""

    NONE = 0
    ESTIMATE = 1
    ORACLE = 2


class Topology(IntEnum):
    """The narrowest domain that a gang's placement must stay within."""

    ANY = 0
    SPINE = 1
    RACK = 2
    NODE = 3
    ISLAND = 4
    """GPUs of one NVLink island of a node."""


class JobKind(IntEnum):
    """What a job is for."""

    TRAINING = 0
    BATCH = 1
    """Batch inference with a deadline; it fills gaps and yields."""
    SERVICE = 2
    """An inference service: its workers are replicas, and it does not end by itself."""


class QuotaMode(IntEnum):
    """How tenants' quotas bind."""

    NONE = 0
    HARD = 1
    """A tenant never holds more than its quota."""
    BORROW = 2
    """Idle capacity may be borrowed beyond it, and is reclaimed when its owner asks."""


class Stream(IntEnum):
    """Purposes of random numbers: one counter-based stream for each."""

    WORKLOAD = 1
    PLACEMENT = 2
    ORDERING = 3
    LOOKAHEAD = 4
    FAILURES = 5
    SERVICES = 6
    BALANCING = 7
    BACKOFF = 8


NO_CHANGE_MS = -(1 << 62)
"""Time of the last change, where there has been none."""
