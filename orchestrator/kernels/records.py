"""Records of a row's tables: what is stored of jobs, nodes, queues, tenants and events.

Integers are 64 bits wide throughout: kernels are compiled once for each combination of types.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from orchestrator.kernels.mesh.record import SERVICE_DTYPE
from orchestrator.kernels.packing_state import (
    KEY_DTYPE,
    KIND_DTYPE,
    ORDER_DTYPE,
    ROOM_DTYPE,
    SLOT_DTYPE,
    TAG_DTYPE,
    TAGS,
    TOUCH_DTYPE,
    TYPICAL_DTYPE,
    VIEW_DTYPE,
    WINNER_DTYPE,
)
from orchestrator.kernels.scaling import SCALING_DTYPE

__all__ = [
    "ARRIVAL_DTYPE",
    "CURVE_DTYPE",
    "CURVE_MODELS",
    "DEVICE_DTYPE",
    "EFFECT_DTYPE",
    "EVENT_DTYPE",
    "GITTINS_DTYPE",
    "GITTINS_ENTRIES",
    "INCIDENT_DTYPE",
    "JOB_DTYPE",
    "LOG_DTYPE",
    "NODE_DTYPE",
    "QUEUE_DTYPE",
    "REQUEST_DTYPE",
    "RUNNING_DTYPE",
    "TABLES",
    "TENANT_DTYPE",
    "UPLINK_DTYPE",
    "WORKER_DTYPE",
    "Table",
]

REQUEST_DTYPE = np.dtype(
    [
        ("submit_ms", "i8"),
        ("duration_ms", "i8"),  # true run time at nominal speed
        ("requested_ms", "i8"),  # the user's estimate
        ("checkpoint_interval_ms", "i8"),  # 0: never saved periodically
        ("checkpoint_ms", "i8"),  # cost of a planned checkpoint
        ("restart_ms", "i8"),  # cost of starting again
        ("regroup_ms", "i8"),  # cost of changing the number of workers; replicas: start-up time
        ("deadline_ms", "i8"),  # from submission; 0: none
        ("storage_mib", "i8"),  # size of a checkpoint, counted against its tenant's quota
        ("memory_mib", "i8"),  # host memory of one worker
        ("cpu_milli", "i8"),  # CPU of one worker
        ("workers", "i8"),
        ("min_workers", "i8"),
        ("max_workers", "i8"),
        ("gpus_per_worker", "i8"),
        ("gpu_milli", "i8"),  # share of each GPU, 1..1000
        ("gpu_memory_mib", "i8"),
        ("bandwidth_mbps", "i8"),  # of one worker's traffic, when the gang spans nodes
        ("curve", "i8"),  # throughput curve; 0: proportional to the workers
        ("service", "i8"),  # of kind SERVICE: index of its service
        ("tenant", "i8"),
        ("user", "i8"),
        ("group", "i8"),
        ("application", "i8"),
        ("model_mask", "u4"),  # bit m: GPU model m will do; 0: any
        ("source_id", "i8"),  # the job's number in the trace it came from
        ("priority", "u1"),  # JobPriority.value
        ("preemptible", "u1"),
        ("elastic", "u1"),
        ("gang", "u1"),
        ("topology", "u1"),  # codes.Topology
        ("kind", "u1"),  # codes.JobKind
    ],
    align=True,
)
"""What a job asks for: immutable once submitted, and the record of the canonical trace table."""

JOB_DTYPE = np.dtype(
    [
        ("units", "i8"),  # demand in capacity units (see ENV capacity_units)
        ("start_ms", "i8"),  # start of the current (or last) run
        ("first_start_ms", "i8"),
        ("end_ms", "i8"),
        ("work_start_ms", "i8"),  # when progress begins: start + restart cost
        ("expected_end_ms", "i8"),  # by the estimate; what policies may know
        ("progress_ms", "i8"),  # work done at work_start (running) or now (waiting)
        ("unsaved_ms", "i8"),  # while checkpointing: work that only this checkpoint will save
        ("lost_ms", "i8"),
        ("attained_unit_ms", "i8"),  # units x time held
        ("blocked_point", "i8"),  # decision point at which it was preempted
        ("onset_ms", "i8"),  # while waiting: when its slowdown begins to exceed 1
        ("kind", "i8"),  # number of its request's kind (see place.memo); 0: not remembered
        ("excess", "f8"),  # while running: its bounded slowdown - 1, as projected
        ("heap_slot", "i8"),  # position of its event in the event queue, or -1
        ("resized_ms", "i8"),  # when its size or place last changed; its start at first
        ("speed_milli", "i8"),
        ("workers_now", "i8"),
        ("preemptions", "i8"),
        ("interruptions", "i8"),
        ("resizes", "i8"),
        ("migrations", "i8"),
        ("state", "u1"),  # codes.JobCode
        ("spread", "u1"),  # codes.Topology: the narrowest domain that holds its workers
        ("runs", "u4"),  # how often it has started: the number of its current (or last) run
    ],
    align=True,
)
"""What has become of a job."""

NODE_DTYPE = np.dtype(
    [
        ("memory_cap_mib", "i8"),
        ("memory_free_mib", "i8"),
        ("cpu_cap_milli", "i8"),
        ("cpu_free_milli", "i8"),
        ("gpu_free_milli", "i8"),  # sum over its devices
        ("bandwidth_free_mbps", "i8"),
        ("fragmentation", "f8"),  # milli-GPUs, see kernels.fragmentation; 0 without typical pods
        ("arrive_ms", "i8"),  # provisioning: when it will be here
        ("gpus", "i8"),
        ("whole_free", "i8"),  # devices that are entirely free
        ("gpu_memory_mib", "i8"),
        ("bandwidth_mbps", "i8"),
        ("workers", "i8"),  # workers placed here
        ("rack", "i8"),
        ("spine", "i8"),
        ("island", "i8"),  # GPUs of one NVLink island; 0: all GPUs are alike
        ("price_milli", "i8"),  # thousandths of a unit of cost per hour in service
        ("failures", "i8"),
        ("model", "u1"),  # index of its GPU model
        ("state", "u1"),  # codes.NodeCode
    ],
    align=True,
)
"""One machine."""

EVENT_DTYPE = np.dtype(
    [("time_ms", "i8"), ("seq", "i8"), ("kind", "i8"), ("entity", "i8")], align=True
)
"""An entry of the event queue; entity is a job index."""

RUNNING_DTYPE = np.dtype(
    [
        ("expected_end_ms", "i8"),
        ("units", "i8"),
        ("job", "i8"),
        ("elastic", "i8"),  # it is elastic, and no service
    ],
    align=True,
)
"""An entry of the running list, kept sorted by expected end."""

INCIDENT_DTYPE = np.dtype([("time_ms", "i8"), ("kind", "i8"), ("node", "i8")], align=True)
"""Something that happens to a node at a time known to the simulator only."""

LOG_DTYPE = np.dtype(
    [("time_ms", "i8"), ("value", "i8"), ("kind", "i8"), ("subject", "i8")], align=True
)
"""A record of the event log."""

EFFECT_DTYPE = np.dtype(
    [
        ("time_ms", "i8"),
        ("kind", "i8"),  # codes.EffectKind
        ("subject", "i8"),  # the node of a RELEASE, else the job; what follows is of jobs only
        ("run", "i8"),
        ("workers", "i8"),  # that it has now: the table beside this one says where
        ("cost_ms", "i8"),  # until work goes on, or the job is saved; of an INTERRUPT: lost work
        ("progress_ms", "i8"),  # work that it goes on from
        ("speed_milli", "i8"),
    ],
    align=True,
)
"""What a runtime is to do, with all that it needs to know: nothing is read from the state later."""

WORKER_DTYPE = np.dtype([("devices", "u8"), ("node", "i8")], align=True)
"""Where a placed worker is: its node, and its devices there as a bit mask."""

DEVICE_DTYPE = np.dtype([("free_milli", "i8"), ("free_memory_mib", "i8")], align=True)
"""One GPU."""

TENANT_DTYPE = np.dtype(
    [
        ("weight", "f8"),  # of its fair share; 0 counts as 1
        ("quota_units", "i8"),  # capacity that it is entitled to
        ("storage_quota_mib", "i8"),  # 0: no limit
        ("used_units", "i8"),
        ("used_gpu_milli", "i8"),
        ("used_cpu_milli", "i8"),
        ("used_memory_mib", "i8"),
        ("storage_mib", "i8"),  # checkpoints of its jobs
        ("attained_unit_ms", "i8"),
    ],
    align=True,
)
"""Whoever shares the cluster."""

UPLINK_DTYPE = np.dtype([("capacity_mbps", "i8"), ("free_mbps", "i8")], align=True)
"""The link from a rack to the rest of the network; capacity 0: no limit."""

CURVE_MODELS = 8
"""GPU models that a curve knows the speed of."""

CURVE_DTYPE = np.dtype(
    [
        ("grad_fixed_s", "f8"),  # a_c: time of a gradient, constant part
        ("grad_per_sample_s", "f8"),  # b_c
        ("node_fixed_s", "f8"),  # a_r: synchronisation within a node
        ("node_per_worker_s", "f8"),  # b_r, beyond two workers
        ("network_fixed_s", "f8"),  # a_n: the same across nodes
        ("network_per_worker_s", "f8"),  # b_n
        ("overlap", "f8"),  # gamma: 1 none, 10 complete
        ("local_batch", "f8"),  # samples of one worker in one step
        ("batch", "f8"),  # M0: the batch size at which progress is counted
        ("noise_scale", "f8"),  # phi; 0: larger batches are as good as more steps
        ("model_milli", "i8", (CURVE_MODELS,)),  # speed on a GPU model, thousandths; 0: nominal
    ],
    align=True,
)
"""How fast a job trains on how many workers, how close together (Pollux, OSDI 2021)."""

GITTINS_DTYPE = np.dtype(
    [
        ("service", "f8"),  # from this attained service on, GPU-seconds (core-seconds)
        ("index", "f8"),  # the Gittins index is this, up to the next entry
    ],
    align=True,
)
"""An entry of the Gittins index as a function of attained service, in ascending order."""

GITTINS_ENTRIES = 64
"""Room for entries in every row."""

ARRIVAL_DTYPE = np.dtype([("node", "i8")], align=True)
"""An entry of the ring of nodes on order, in order of arrival; NODE_DTYPE has the time."""

QUEUE_DTYPE = np.dtype([("job", "i8")], align=True)
"""An entry of the queue, in submit order."""


class Table(NamedTuple):
    """A table of every row."""

    dtype: np.dtype[Any]
    axes: tuple[str | int, ...]  # sizes by name, see row.CAPACITIES and state.ClusterShape


TABLES = {
    "request": Table(REQUEST_DTYPE, ("jobs",)),  # by submit time
    "job": Table(JOB_DTYPE, ("jobs",)),
    "worker": Table(WORKER_DTYPE, ("jobs", "workers")),
    "node": Table(NODE_DTYPE, ("nodes",)),
    "device": Table(DEVICE_DTYPE, ("nodes", "devices")),
    "queue": Table(QUEUE_DTYPE, ("jobs",)),  # waiting jobs in submit order
    "running": Table(RUNNING_DTYPE, ("jobs",)),  # by expected end
    "heap": Table(EVENT_DTYPE, ("jobs",)),  # a binary heap
    "incident": Table(INCIDENT_DTYPE, ("incidents",)),  # by time
    "log": Table(LOG_DTYPE, ("log",)),  # a ring
    "effect": Table(EFFECT_DTYPE, ("effects",)),  # a ring
    "effect_worker": Table(WORKER_DTYPE, ("effects", "workers")),  # workers of each
    "tenant": Table(TENANT_DTYPE, ("tenants",)),
    "uplink": Table(UPLINK_DTYPE, ("uplinks",)),  # by rack
    "curve": Table(CURVE_DTYPE, ("curves",)),  # entry 0 is not used
    "service": Table(SERVICE_DTYPE, ("services",)),
    "typical": Table(TYPICAL_DTYPE, ("typical",)),
    "order": Table(ORDER_DTYPE, ("nodes",)),  # by (spine, rack)
    "tag": Table(TAG_DTYPE, ("nodes", TAGS)),
    # this and the next six are a memo: packing_state.MEMO_TABLES; entry 0 of kinds: no kind
    "kind": Table(KIND_DTYPE, ("kind_entries",)),
    "slot": Table(SLOT_DTYPE, ("kind_entries", "memo_nodes")),
    "room": Table(ROOM_DTYPE, ("memo_nodes",)),
    "view": Table(VIEW_DTYPE, ("views",)),  # VIEWS of each kind
    "key": Table(KEY_DTYPE, ("views", "memo_nodes")),
    "winner": Table(WINNER_DTYPE, ("views", "leaves")),  # a tree over so many leaves
    "touch": Table(TOUCH_DTYPE, ("touches",)),  # a ring
    "arrival": Table(ARRIVAL_DTYPE, ("nodes",)),  # a ring
    "plan": Table(SCALING_DTYPE, ("plans",)),  # of the fleet, then of each service
    "gittins": Table(GITTINS_DTYPE, (GITTINS_ENTRIES,)),  # by attained service
}
"""Tables of a row, by name; kernels reach them through the accessors in ``tables``."""
