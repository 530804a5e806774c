"""Record types of all tables of a row; units stand at the fields.

The memo (see ``place.memo``) is derived from the state and never part of it: two rows that differ
in it only decide alike, and whoever blanks it out loses nothing but time.

Integers are 64 bits wide throughout: kernels are compiled once for each combination of types.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "ACCOUNT_DTYPE",
    "ARRIVAL_DTYPE",
    "CURVE_DTYPE",
    "CURVE_MODELS",
    "DEVICE_DTYPE",
    "EFFECT_DTYPE",
    "EVENT_DTYPE",
    "FLEET_DTYPE",
    "GITTINS_DTYPE",
    "GITTINS_ENTRIES",
    "INCIDENT_DTYPE",
    "JOB_DTYPE",
    "JOB_MEMO_FIELDS",
    "KEY_DTYPE",
    "KIND_DTYPE",
    "KIND_FIELDS",
    "LINE_DTYPE",
    "LOG_DTYPE",
    "MARK_DTYPE",
    "MEMO_TABLES",
    "NODE_DTYPE",
    "ORDER_DTYPE",
    "QUEUE_DTYPE",
    "REQUEST_DTYPE",
    "ROOM_DTYPE",
    "RUNNING_DTYPE",
    "SCALING_DTYPE",
    "SERVICE_DTYPE",
    "SLOT_DTYPE",
    "TABLES",
    "TAGS",
    "TAG_DTYPE",
    "TENANT_DTYPE",
    "TOUCH_DTYPE",
    "TYPICAL_DTYPE",
    "UPLINK_DTYPE",
    "VICTIM_DTYPE",
    "VIEWS",
    "VIEW_DTYPE",
    "WINNER_DTYPE",
    "WORKER_DTYPE",
    "Table",
]


MEMO_TABLES = (
    *("kind", "slot", "room", "view", "key", "winner", "touch"),
    *("line", "mark", "victim", "account"),
)
"""Tables of a row that only save time."""


JOB_MEMO_FIELDS = ("kind",)
"""Fields of a job that only save time."""


TAGS = 10
"""Kinds of workers that GPU clustering tells apart: shared, 1 to 8 GPUs, more."""


VIEWS = 4
"""Orders of the nodes that are remembered of one kind: by generator, and by workers to place."""


TYPICAL_DTYPE = np.dtype(
    [
        ("weight", "f8"),  # share of the pods; all add up to 1
        ("cpu_milli", "i8"),
        ("gpu_milli", "i8"),  # share of each GPU
        ("gpus", "i8"),
        ("model_mask", "u4"),  # as in REQUEST_DTYPE
    ],
    align=True,
)
"""A class of typical pods (Weng et al., USENIX ATC 2023), most frequent first."""


ORDER_DTYPE = np.dtype([("node", "i8")], align=True)
"""Nodes by (spine, rack, index): a rack, and a spine, is a run of consecutive entries."""


TAG_DTYPE = np.dtype([("workers", "i8")], align=True)
"""Workers of one kind on a node."""


KIND_FIELDS = (
    "memory_mib",
    "cpu_milli",
    "gpus_per_worker",
    "gpu_milli",
    "gpu_memory_mib",
    "model_mask",
)
"""Of REQUEST_DTYPE: what one worker asks of its node. Requests that agree in it are of one kind."""


KIND_DTYPE = np.dtype(
    [
        *((name, "i8") for name in KIND_FIELDS),
        ("jobs", "i8"),  # in the job table; 0: the entry may become another kind
        ("seen", "i8"),  # touches that the slots and the total take account of
        ("total", "i8"),  # workers that all nodes together hold
        ("summed", "i8"),  # touches that the nodes below take account of
        ("first", "i8"),  # of the nodes that hold a worker: that of the least index, or -1
        ("tightest", "i8"),  # with least free, or -1
        ("next_tightest", "i8"),  # after that one, or -1
        ("roomiest", "i8"),  # with most free, or -1
        ("next_view", "i8"),  # that makes way
        # who is hopeless (see decide.turn.victims): of those who wait in the line of a walk
        ("walk", "i8"),  # the walk along the line that the next three are of
        ("hopeless", "i8"),  # with so many workers or more
        ("hopeless_tier", "f8"),  # and served in this tier or a later one
        ("hopeless_rank", "f8"),  # and of this rank or a later one
        ("full_walk", "i8"),  # the walk that the next one is of
        ("full", "i8"),  # with so many workers or more there is no room for it as things are
    ],
    align=True,
)
"""A kind of requests. Entry 0 stands for all that are not remembered."""


SLOT_DTYPE = np.dtype([("workers", "i4")], align=True)
"""Workers of a kind that a node holds. A narrow integer: this is read most of all tables."""


ROOM_DTYPE = np.dtype(
    [
        ("share", "i8"),  # slots.free_share
        ("gpu_milli", "i8"),  # free
        ("cpu_milli", "i8"),  # free
        ("mates", "i8"),  # scratch: workers here of the gang that is looked at
        ("touched", "i8"),  # number of the node's last touch
    ],
    align=True,
)
"""What is free on a node, close together in memory."""


VIEW_DTYPE = np.dtype(
    [
        ("seen", "i8"),  # touches that its keys take account of
        ("generator", "i8"),  # codes.Placement
        ("limit", "i8"),  # workers beyond which its keys see no difference; 0: they see none
    ],
    align=True,
)
"""The nodes as a generator ranks them for a kind."""


KEY_DTYPE = np.dtype([("value", "i8")], align=True)
"""Key of a node in a view: the highest wins, of equals the first."""


WINNER_DTYPE = np.dtype([("key", "i8"), ("node", "i8")], align=True)
"""An inner entry of a view's tournament tree: the node that won there, or -1; entry 1: the best.

Its key stands beside it: looked up by node, every match would miss the cache twice.
"""


TOUCH_DTYPE = np.dtype([("node", "i8"), ("before", "i8")], align=True)
"""A node that changed, and the number of its touch before: an entry of a ring."""


LINE_DTYPE = np.dtype(
    [
        ("tier", "f8"),
        ("score", "f8"),
        (
            "left_ms",
            "i8",
        ),  # that it is expected to run, once it has started
        ("job", "i4"),
        ("kind", "i4"),  # of its request, as in JOB_DTYPE
        ("least", "i4"),  # workers without which it does not start
        ("priority", "u1"),
        ("preemptible", "u1"),
    ],
    align=True,
)
"""Who waits, in the order in which a rule serves them: by tier, score and submission.

Narrow integers: most entries are read, and nothing else of their jobs is.
"""


MARK_DTYPE = np.dtype([("walk", "i8")], align=True)
"""Of a job: the walk along the line for which it was last lined up."""


ACCOUNT_DTYPE = np.dtype([("head", "i8")], align=True)
"""Of a tenant: the first job that its account keeps waiting, as a decision has seen, or NO_JOB."""


VICTIM_DTYPE = np.dtype(
    [
        ("rank", "f8"),  # how readily it gives way: the highest rank first,
        ("value", "f8"),  # of equals the highest value,
        ("place", "i8"),  # then the first in the running list
        ("job", "i8"),
        ("units", "i8"),  # once it is taken off the heap: those of it and of all before it
    ],
    align=True,
)
"""A running job that might be preempted: a heap, behind it those that were taken off it."""


SERVICE_DTYPE = np.dtype(
    [
        # what it is: see orchestrator.mesh.specs.ServiceSpec
        ("service_ms", "f8"),  # mean time that a request holds a slot
        ("service_cv2", "f8"),  # squared coefficient of variation of that time
        ("arrival_cv2", "f8"),  # the same of the gaps between requests
        ("objective_ms", "f8"),  # a request should be answered within
        ("percentile", "f8"),  # of the response time that latency_ms reports
        ("timeout_ms", "f8"),  # an attempt is given up after; 0: never
        ("queue_limit", "f8"),  # most requests waiting; 0: no limit
        ("limit_rps", "f8"),  # rate limiter; 0: none
        ("limit_burst", "f8"),
        ("retry_budget", "f8"),  # retries that a request earns
        ("retry_floor_rps", "f8"),
        ("retry_reserve", "f8"),
        ("breaker_ratio", "f8"),
        ("sick_per_hour", "f8"),  # how often a ready replica begins to fail all its requests
        ("sick_ms", "i8"),  # and for how long
        ("breaker_window_ms", "i8"),
        ("breaker_open_ms", "i8"),
        ("breaker_failures", "i8"),
        ("breaker_minimum", "i8"),
        ("breaker_probes", "i8"),
        ("attempts", "i8"),  # of one request, the first included
        ("slots", "i8"),  # requests that a replica serves at a time
        ("job", "i8"),  # the job whose workers are the replicas
        # how it is
        ("tokens", "f8"),  # of its rate limiter
        ("retry_balance", "f8"),
        ("backlog", "f8"),  # requests waiting
        ("late_share", "f8"),  # attempts of the last tick that were given up
        ("rate_rps", "f8"),  # demand in the last tick
        ("ahead_rps", "f8"),  # to be prepared for, where no table says it: that demand, unless told
        ("utilisation", "f8"),
        ("missed_share", "f8"),  # of the last tick's requests, those not answered in time
        ("latency_ms", "f8"),  # the percentile in the last tick
        ("run_start_ms", "i8"),  # start of the run that `ready` belongs to
        ("breaker_since_ms", "i8"),
        ("sick_until_ms", "i8"),  # when the sick replica is well again
        ("scaled_ms", "i8"),  # when the number of its replicas was last changed on purpose
        ("scaled_by", "i8"),  # and by how many
        ("ready", "i8"),  # replicas that have started up
        ("sick", "i8"),  # of them sick, or still shut out: 0 or 1
        ("breaker_mode", "i8"),  # requests.breaker.BreakerMode: the sick replica's breaker
        ("breaker_in_row", "i8"),
        # totals of the episode
        ("offered", "f8"),  # requests
        ("within", "f8"),  # answered within the objective
        ("shed", "f8"),  # turned away by the limiter
        ("retried", "f8"),  # attempts beyond the first
        ("failed", "f8"),  # attempts turned away: a sick replica, a full queue, no replica
        ("served", "f8"),  # attempts that a healthy replica worked on, useful or not
        ("violations", "f8"),  # requests not answered within the objective
        ("replica_ms", "i8"),  # ready replicas, integrated over time
        ("overload_ticks", "i8"),  # ticks with more demand than the ready replicas can serve
    ],
    align=True,
)
"""An inference service: requests are a fluid, see docs/decisions/0006-services-as-fluid.md."""


SCALING_DTYPE = np.dtype(
    [
        ("unit_capacity", "f8"),  # demand that one node or replica serves at full use
        ("target", "f8"),  # use of a unit to aim for, (0, 1]
        ("tolerance", "f8"),  # relative distance from the desired size that is left alone
        ("up_window_ms", "i8"),  # after a change, before the next way up
        ("down_window_ms", "i8"),  # after a change, before the next way down
        ("min_size", "i4"),
        ("max_size", "i4"),
        ("step_up", "i4"),  # most units added at once; 0: no limit
        ("step_down", "i4"),  # most units removed at once; 0: no limit
    ],
    align=True,
)
"""How one fleet or service is scaled."""


FLEET_DTYPE = np.dtype(
    [
        ("tick_ms", "i8"),  # between two looks at it, at least 1
        ("min_nodes", "i8"),
        ("max_nodes", "i8"),
        ("scaled_ms", "i8"),  # when nodes were last ordered or given up
        ("scaled_by", "i8"),  # and how many: more than 0 if ordered
    ],
    align=True,
)
"""A live cluster's fleet, as far as its node table does not tell."""


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
        ("units", "i8"),  # demand in capacity units (see ROW_DTYPE unit)
        ("start_ms", "i8"),  # start of the current (or last) run
        ("first_start_ms", "i8"),
        ("end_ms", "i8"),
        ("work_start_ms", "i8"),  # when progress begins: start + restart cost
        ("expected_end_ms", "i8"),  # by the estimate; what policies may know
        ("progress_ms", "i8"),  # work done at work_start_ms (running) or now (waiting)
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
        ("fragmentation", "f8"),  # milli-GPUs, see place.score; 0 without typical pods
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
    axes: tuple[str | int, ...]  # sizes by name, see row.CAPACITIES and row.ClusterShape


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
    # this and the next ten are a memo: MEMO_TABLES; entry 0 of kinds: no kind
    "kind": Table(KIND_DTYPE, ("kind_entries",)),
    "slot": Table(SLOT_DTYPE, ("kind_entries", "memo_nodes")),
    "room": Table(ROOM_DTYPE, ("memo_nodes",)),
    "view": Table(VIEW_DTYPE, ("views",)),  # VIEWS of each kind
    "key": Table(KEY_DTYPE, ("views", "memo_nodes")),
    "winner": Table(WINNER_DTYPE, ("views", "leaves")),  # a tree over so many leaves
    "touch": Table(TOUCH_DTYPE, ("touches",)),  # a ring
    "line": Table(LINE_DTYPE, (2, "jobs")),  # one side is in order, the other one scratch
    "mark": Table(MARK_DTYPE, ("jobs",)),
    "victim": Table(VICTIM_DTYPE, ("jobs",)),
    "account": Table(ACCOUNT_DTYPE, ("tenants",)),
    "arrival": Table(ARRIVAL_DTYPE, ("nodes",)),  # a ring
    "plan": Table(SCALING_DTYPE, ("plans",)),  # of the fleet, then of each service
    "gittins": Table(GITTINS_DTYPE, (GITTINS_ENTRIES,)),  # by attained service
}
"""Tables of a row, by name; kernels reach them through the accessors in ``access``."""
