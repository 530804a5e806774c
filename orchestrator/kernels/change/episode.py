"""Begin a row: load its tables; copy, fork or save it, replace what it knows of the future."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.hold import empty_node, sort_nodes
from orchestrator.kernels.change.jobs import assume_duration, work_of
from orchestrator.kernels.change.nodes import cost_rate
from orchestrator.kernels.change.queue import forget_line, weigh_anew
from orchestrator.kernels.change.services import begin_service
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.memory import address_of, copy_record, move_bytes, zero_record
from orchestrator.kernels.place.memo import (
    copy_kinds,
    forget_kind,
    forget_kinds,
    forget_nodes,
    intern_kind,
)
from orchestrator.kernels.place.slots import node_units, units_of
from orchestrator.kernels.state.access import (
    arrival,
    copy_scalars,
    curve,
    device,
    gittins,
    heap,
    incident,
    job,
    node,
    order,
    plan,
    queue,
    request,
    running,
    service,
    tag,
    tenant,
    typical,
    uplink,
    worker,
    zero_run,
)
from orchestrator.kernels.state.codes import (
    NO_CHANGE_MS,
    NO_JOB,
    EventKind,
    Information,
    JobCode,
    JobKind,
    NodeCode,
)
from orchestrator.kernels.state.records import (
    ARRIVAL_DTYPE,
    CURVE_DTYPE,
    DEVICE_DTYPE,
    EFFECT_DTYPE,
    EVENT_DTYPE,
    GITTINS_DTYPE,
    GITTINS_ENTRIES,
    INCIDENT_DTYPE,
    JOB_DTYPE,
    LOG_DTYPE,
    NODE_DTYPE,
    ORDER_DTYPE,
    QUEUE_DTYPE,
    REQUEST_DTYPE,
    RUNNING_DTYPE,
    SCALING_DTYPE,
    SERVICE_DTYPE,
    TAG_DTYPE,
    TAGS,
    TENANT_DTYPE,
    TYPICAL_DTYPE,
    UPLINK_DTYPE,
    WORKER_DTYPE,
)
from orchestrator.kernels.state.row import COPIED

__all__ = [
    "add_arrival",
    "assume_future",
    "begin_episode",
    "clear_job",
    "copy_row",
    "expect_nobody",
    "expect_recovery",
    "expect_somebody",
    "fork_row",
    "load_curves",
    "load_gittins",
    "load_incidents",
    "load_job",
    "load_nodes",
    "load_plans",
    "load_series",
    "load_services",
    "load_tenants",
    "renew_row",
    "restore_row",
    "save_row",
    "saved_bytes",
    "settle_accounts",
]


_UNKNOWN_MS = 3_600_000  # the estimate of every job when nothing is known


@kernel
def load_nodes(row, nodes):
    """Fill the node table of a row that is all zeros from ``nodes`` [n] NODE_DTYPE, all free.

    Capacity units are milli-GPUs, or milli-cores where no node has a GPU. Nodes are up, down or
    absent: those on order were ordered in the row (``change.nodes``).
    """
    gpus = 0
    for n in range(nodes.shape[0]):
        gpus += nodes[n].gpus
    row.unit = np.uint8(gpus > 0)
    row.num_nodes = nodes.shape[0]
    for n in range(nodes.shape[0]):
        copy_record(node(row, n), nodes[n])
        empty_node(row, n)
        node(row, n).failures = 0
        units = node_units(row, n)
        row.nominal_units += units
        row.nominal_gpu_milli += np.int64(nodes[n].gpus) * 1000
        row.nominal_cpu_milli += nodes[n].cpu_cap_milli
        row.nominal_memory_mib += nodes[n].memory_cap_mib
        row.all_prices_milli += nodes[n].price_milli
        if nodes[n].state == NodeCode.UP:
            row.capacity_units += units
    row.free_units = row.capacity_units
    row.cost_rate_milli = cost_rate(row)
    sort_nodes(row)
    forget_nodes(row)


@kernel
def clear_job(row, j):
    """Forget what became of the job in row ``j`` of the job table."""
    zero_record(job(row, j))
    job(row, j).units = units_of(row, j, request(row, j).workers)
    job(row, j).start_ms = -1
    job(row, j).first_start_ms = -1
    job(row, j).end_ms = -1
    job(row, j).blocked_point = -1
    job(row, j).speed_milli = 1000
    job(row, j).state = np.uint8(JobCode.ABSENT)
    job(row, j).heap_slot = -1
    intern_kind(row, j)


@small_kernel
def _enter(row, j):
    """Begin the life of the job whose request is in row ``j`` of the job table.

    What may be known of run times is settled here, once, for rules and learned policies alike:
    everything that decides reads ``requested_ms``.
    """
    ask = request(row, j)
    if ask.kind == JobKind.SERVICE:  # nobody expects it to end
        pass
    elif row.information == Information.ORACLE:
        request(row, j).requested_ms = ask.duration_ms
    elif row.information == Information.NONE:
        request(row, j).requested_ms = _UNKNOWN_MS
    clear_job(row, j)


@small_kernel
def load_job(row, j, ask):
    """Put a request into row ``j`` of the job table."""
    copy_record(request(row, j), ask)
    _enter(row, j)


@kernel
def begin_episode(row, seed, nodes, standing, requests):
    """Start a row afresh; its config is kept.

    ``seed``, uint64, is that of the row's random streams. ``nodes``, NODE_DTYPE [n], are its
    machines; ``requests``, REQUEST_DTYPE [jobs], its jobs in submit order. ``standing``,
    REQUEST_DTYPE [k], are services: submitted before the first of the others, at the same time.
    """
    zero_run(row)
    row.now_ms = requests[0].submit_ms if requests.shape[0] > 0 else 0
    row.begin_ms = row.now_ms
    row.seed = seed
    row.committed = NO_JOB
    row.num_jobs = standing.shape[0] + requests.shape[0]
    row.scaled_ms = NO_CHANGE_MS
    load_nodes(row, nodes)
    forget_kinds(row)
    forget_line(row)
    for j in range(standing.shape[0]):
        load_job(row, np.int64(j), standing[j])
        request(row, j).submit_ms = row.now_ms
    for j in range(requests.shape[0]):
        load_job(row, np.int64(standing.shape[0] + j), requests[j])


@kernel
def load_incidents(row, incidents):
    """Give a row its incidents, INCIDENT_DTYPE [n] by time, counted from the episode's start."""
    row.num_incidents = incidents.shape[0]
    for k in range(incidents.shape[0]):
        copy_record(incident(row, k), incidents[k])
        incident(row, k).time_ms = incidents[k].time_ms + row.now_ms


@kernel
def load_curves(row, curves):
    """Give a row its throughput curves, CURVE_DTYPE [n], after ``begin_episode``.

    Entry 0 stands for "in proportion to the workers", whatever it holds.
    """
    row.num_curves = curves.shape[0]
    for c in range(curves.shape[0]):
        copy_record(curve(row, c), curves[c])


@kernel
def load_gittins(row, entries):
    """Give a row its Gittins index, GITTINS_DTYPE [n <= GITTINS_ENTRIES] by attained service."""
    row.num_gittins = min(entries.shape[0], GITTINS_ENTRIES)
    for k in range(row.num_gittins):
        copy_record(gittins(row, k), entries[k])


@kernel
def load_tenants(row, tenants):
    """Give a row that has just begun its tenants, TENANT_DTYPE [n], with empty accounts."""
    row.num_tenants = tenants.shape[0]
    for t in range(tenants.shape[0]):
        copy_record(tenant(row, t), tenants[t])
        tenant(row, t).used_units = 0
        tenant(row, t).used_gpu_milli = 0
        tenant(row, t).used_cpu_milli = 0
        tenant(row, t).used_memory_mib = 0
        tenant(row, t).storage_mib = 0
        tenant(row, t).attained_unit_ms = 0


@small_kernel
def load_series(row, first, stop):
    """Let the ticks of a row be those of its series from ``first`` up to ``stop`` (exclusive)."""
    row.series_first = first
    row.series_stop = stop


@kernel
def load_services(row, services):
    """Give a row its services, SERVICE_DTYPE [n]; their ticks begin one ``tick_ms`` from now.

    Only what they are is taken from the records: their state begins anew. The row's ``tick_ms``,
    ``series_at``, ``series_len``, ``series_first``, ``series_stop`` and ``forecast_at`` are the
    caller's to set; an episode does not change them. Without services ticks are mere reviews.
    """
    row.num_services = services.shape[0]
    row.tick = 0
    row.next_tick_ms = row.now_ms + row.tick_ms
    for s in range(services.shape[0]):
        copy_record(service(row, s), services[s])
        begin_service(service(row, s), row.now_ms)


@kernel
def load_plans(row, plans):
    """Give a row the plans of its fleet and its services, SCALING_DTYPE [services + 1]."""
    for k in range(plans.shape[0]):
        copy_record(plan(row, k), plans[k])


@kernel
def copy_row(source, target):
    """Copy row ``source`` onto row ``target``, which keeps its own tables and must be as large.

    Only what is in use is copied. The log's records and the effects stay with the row where they
    came about: nobody acts on what happens in a copy.
    """
    _copy_scalars(source, target)
    for j in range(source.num_jobs):
        copy_record(request(target, j), request(source, j))
        copy_record(job(target, j), job(source, j))
    copy_kinds(source, target)
    _copy_lists(source, target)
    _copy_placed(source, target)
    _copy_nodes(source, target)
    _copy_constants(source, target)
    for k in range(source.num_incidents):
        copy_record(incident(target, k), incident(source, k))
    _copy_accounts(source, target)


@kernel
def renew_row(source, target):
    """Copy onto ``target``, which was a copy of row ``source``, all that changes in either."""
    _copy_scalars(source, target)
    for j in range(source.num_jobs):
        copy_record(job(target, j), job(source, j))
    _copy_lists(source, target)
    _copy_placed(source, target)
    _copy_nodes(source, target)
    _copy_accounts(source, target)


@small_kernel
def _copy_scalars(source, target):
    """Copy all of a row but its tables; what is remembered of nodes will be taken for old.

    So will the line of those who wait, which is in the target's own tables.
    """
    touched = target.touched
    copy_scalars(target, source)
    target.touched = max(touched, source.touched)
    target.lined_at = 0


@kernel
def _copy_lists(source, target):
    """Copy who runs, who waits, and what will happen to whom."""
    for k in range(source.running_len):
        copy_record(running(target, k), running(source, k))
    for k in range(source.queue_len):
        queue(target, k).job = queue(source, k).job
    for k in range(source.heap_len):
        copy_record(heap(target, k), heap(source, k))


@small_kernel
def _copy_workers(source, j, target, i):
    """Copy where the workers of job ``j`` are, to job ``i``."""
    for w in range(job(source, j).workers_now):
        copy_record(worker(target, i, w), worker(source, j, w))


@kernel
def _copy_placed(source, target):
    """Copy where all workers are."""
    for k in range(source.running_len):
        j = np.int64(running(source, k).job)
        _copy_workers(source, j, target, j)


@kernel
def _copy_nodes(source, target):
    """Copy nodes, their devices, and what is on order."""
    for n in range(source.num_nodes):
        copy_record(node(target, n), node(source, n))
        for g in range(source.max_devices):
            copy_record(device(target, n, g), device(source, n, g))
        for kind in range(TAGS):
            tag(target, n, kind).workers = tag(source, n, kind).workers
    forget_nodes(target)
    for k in range(source.arrival_len):
        copy_record(arrival(target, k), arrival(source, k))


@kernel
def _copy_accounts(source, target):
    """Copy what tenants hold, what links carry, and how services are."""
    for t in range(source.num_tenants):
        copy_record(tenant(target, t), tenant(source, t))
    for r in range(source.num_uplinks):
        copy_record(uplink(target, r), uplink(source, r))
    for k in range(source.num_services):
        copy_record(service(target, k), service(source, k))


@kernel
def _copy_constants(source, target):
    """Copy what does not change while nodes stay the same: order, curves, plans, indices."""
    for n in range(source.num_nodes):
        order(target, n).node = order(source, n).node
    for t in range(source.num_typical):
        copy_record(typical(target, t), typical(source, t))
    for c in range(source.num_curves):
        copy_record(curve(target, c), curve(source, c))
    for k in range(source.num_services + 1):
        copy_record(plan(target, k), plan(source, k))
    for k in range(source.num_gittins):
        copy_record(gittins(target, k), gittins(source, k))


_MEASURE, _SAVE, _RESTORE = 0, 1, 2  # what is done to every stretch of a row's memory
_SCALARS_AT, _SCALARS = COPIED
_REQUEST, _JOB, _WORKER = REQUEST_DTYPE.itemsize, JOB_DTYPE.itemsize, WORKER_DTYPE.itemsize
_NODE, _DEVICE, _TAG = NODE_DTYPE.itemsize, DEVICE_DTYPE.itemsize, TAGS * TAG_DTYPE.itemsize
_QUEUE, _RUNNING, _EVENT = QUEUE_DTYPE.itemsize, RUNNING_DTYPE.itemsize, EVENT_DTYPE.itemsize
_INCIDENT, _TENANT, _CURVE = INCIDENT_DTYPE.itemsize, TENANT_DTYPE.itemsize, CURVE_DTYPE.itemsize
_UPLINK, _TYPICAL, _ORDER = UPLINK_DTYPE.itemsize, TYPICAL_DTYPE.itemsize, ORDER_DTYPE.itemsize
_SERVICE, _PLAN, _GITTINS = SERVICE_DTYPE.itemsize, SCALING_DTYPE.itemsize, GITTINS_DTYPE.itemsize
_ARRIVAL, _EFFECT, _RECORD = ARRIVAL_DTYPE.itemsize, EFFECT_DTYPE.itemsize, LOG_DTYPE.itemsize


@small_kernel
def _pass(at, address, size, way):
    """Measure, save or restore ``size`` bytes at an address; where the next ones are kept."""
    if way == _SAVE:
        move_bytes(at, address, size)
    elif way == _RESTORE:
        move_bytes(address, at, size)
    return at + size


@kernel
def _pass_jobs(row, at, way):
    """Jobs, who waits and who runs; of workers those that have a place."""
    at = _pass(at, row.request_at, row.num_jobs * _REQUEST, way)
    at = _pass(at, row.job_at, row.num_jobs * _JOB, way)
    at = _pass(at, row.queue_at, row.queue_len * _QUEUE, way)
    at = _pass(at, row.running_at, row.running_len * _RUNNING, way)
    at = _pass(at, row.heap_at, row.heap_len * _EVENT, way)
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        first = row.worker_at + j * row.max_workers * _WORKER
        at = _pass(at, first, np.int64(job(row, j).workers_now) * _WORKER, way)
    return at


@kernel
def _pass_surroundings(row, at, way):
    """Nodes, and all that a row has besides jobs and nodes."""
    at = _pass(at, row.node_at, row.num_nodes * _NODE, way)
    at = _pass(at, row.device_at, row.num_nodes * row.max_devices * _DEVICE, way)
    at = _pass(at, row.tag_at, row.num_nodes * _TAG, way)
    at = _pass(at, row.order_at, row.num_nodes * _ORDER, way)
    at = _pass(at, row.incident_at, row.num_incidents * _INCIDENT, way)
    at = _pass(at, row.tenant_at, row.num_tenants * _TENANT, way)
    at = _pass(at, row.uplink_at, row.num_uplinks * _UPLINK, way)
    at = _pass(at, row.curve_at, row.num_curves * _CURVE, way)
    at = _pass(at, row.typical_at, row.num_typical * _TYPICAL, way)
    at = _pass(at, row.service_at, row.num_services * _SERVICE, way)
    at = _pass(at, row.plan_at, (row.num_services + 1) * _PLAN, way)
    at = _pass(at, row.gittins_at, row.num_gittins * _GITTINS, way)
    at = _pass(at, row.arrival_at, row.arrival_slots * _ARRIVAL, way)  # a ring
    at = _pass(at, row.log_at, row.max_log * _RECORD, way)
    at = _pass(at, row.effect_at, row.max_effects * _EFFECT, way)
    return _pass(at, row.effect_worker_at, row.max_effects * row.max_workers * _WORKER, way)


@kernel
def _pass_row(row, at, way):
    """All of a row but its memo. Scalars come first: they say how much there is of the rest."""
    at = _pass(at, address_of(row) + _SCALARS_AT, np.int64(_SCALARS), way)
    return _pass_surroundings(row, _pass_jobs(row, at, way), way)


@kernel
def saved_bytes(row):
    """How many bytes :func:`save_row` writes."""
    return _pass_row(row, np.int64(0), _MEASURE)


@kernel
def save_row(row, address):
    """Write what is in use of a row, and of its rings all, to an address; where it ends."""
    return _pass_row(row, address, _SAVE)


@kernel
def restore_row(row, address):
    """Read what :func:`save_row` wrote of a row of the same shape; where it ends.

    The row keeps the series that it reads. Its memo is of another past, and is dropped.
    """
    touched, series, forecast = row.touched, row.series_at, row.forecast_at
    end = _pass_row(row, address, _RESTORE)
    row.series_at, row.forecast_at = series, forecast
    row.touched = max(touched, row.touched)
    row.lined_at = 0  # the line in its tables is of another past, too
    forget_kinds(row)
    for j in range(row.num_jobs):
        intern_kind(row, np.int64(j))
    forget_nodes(row)
    return end


# --- forks ---------------------------------------------------------------------------------------


_GONE, _STAYS = -1, 0


@kernel
def _find_what_goes_on(row, place):
    """Mark in ``place``, by job, who stays in a fork; how many they are.

    Besides those that run or wait these are the first job, from which times are counted, the jobs
    of services, and beside these the last that came: it says that there are others.
    """
    for j in range(row.num_jobs):
        place[j] = _GONE
    if row.num_jobs > 0:
        place[0] = _STAYS
    if row.num_services > 0 and row.next_arrival > 0:
        place[row.next_arrival - 1] = _STAYS
    for s in range(row.num_services):
        if service(row, s).job >= 0:
            place[service(row, s).job] = _STAYS
    for k in range(row.running_len):
        place[running(row, k).job] = _STAYS
    for q in range(row.queue_len):
        place[queue(row, q).job] = _STAYS
    count = 0
    for j in range(row.num_jobs):
        count += np.int64(place[j] != _GONE)
    return count


@kernel
def _rename(row, place):
    """Let lists that were copied speak of jobs by their places in the fork."""
    if row.committed >= 0:
        row.committed = np.int64(place[row.committed])
    for k in range(row.running_len):
        running(row, k).job = np.int64(place[running(row, k).job])
    for q in range(row.queue_len):
        queue(row, q).job = np.int64(place[queue(row, q).job])
    for k in range(row.heap_len):
        heap(row, k).entity = np.int64(place[heap(row, k).entity])
    for s in range(row.num_services):
        if service(row, s).job >= 0:
            service(row, s).job = np.int64(place[service(row, s).job])


@kernel
def fork_row(source, target, place, kept):
    """Copy onto row ``target`` what goes on in row ``source``; the number of jobs.

    Who has ended is left behind, and so is what nobody knows: arrivals and incidents to come.
    Played on with the same arrivals the fork comes to the same as the original, event for event,
    unless lots are drawn by the number of a job (``RuleKey.RANDOM``). ``place``, int32 [jobs of the
    source], receives where each job is in the fork, or -1; ``kept``, int32 [jobs of the target],
    which job is in each place. The target has tables of its own, as large as the source's but for
    those of jobs, incidents, kinds, log and effects.
    """
    count = _find_what_goes_on(source, place)
    if count > target.max_jobs:
        raise RuntimeError("a fork has no room for all jobs that run or wait")
    _copy_scalars(source, target)
    target.num_jobs = count
    target.next_arrival = count
    target.num_incidents = 0
    target.next_incident = 0
    forget_kinds(target)
    _copy_lists(source, target)
    _copy_nodes(source, target)
    _copy_constants(source, target)
    _copy_accounts(source, target)
    i = np.int64(0)
    for j in range(source.num_jobs):
        if place[j] != _GONE:
            place[j] = i
            kept[i] = j
            copy_record(request(target, i), request(source, j))
            copy_record(job(target, i), job(source, j))
            intern_kind(target, i)
            i += 1
    for k in range(source.running_len):
        j = np.int64(running(source, k).job)
        _copy_workers(source, j, target, np.int64(place[j]))
    _rename(target, place)
    return count


@kernel
def expect_somebody(row):
    """Let a fork know that somebody will come, though not who: one may then wait for that."""
    add_arrival(row, request(row, np.int64(0)), row.now_ms + _UNKNOWN_MS, np.int64(1))


@small_kernel
def expect_nobody(row):
    """Undo :func:`expect_somebody`."""
    row.num_jobs -= 1
    forget_kind(row, row.num_jobs)


@kernel
def expect_recovery(row, n, time_ms):
    """Let node ``n`` of a fork, which knows of no failures to come, come back at a time.

    The row has room for one more incident.
    """
    k = np.int64(row.num_incidents)
    while k > row.next_incident and incident(row, k - 1).time_ms > time_ms:
        copy_record(incident(row, k), incident(row, k - 1))
        k -= 1
    incident(row, k).time_ms = time_ms
    incident(row, k).kind = np.int64(EventKind.NODE_RECOVERY)
    incident(row, k).node = n
    row.num_incidents += 1


@kernel
def settle_accounts(row):
    """Forget what a fork has cost so far; what is projected of who is in it is added up anew.

    Every job's run time has been assumed (:func:`assume_duration`): nothing that follows from the
    true ones, not even a rounding, is left.
    """
    row.settled_excess = 0.0
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        if job(row, j).state == JobCode.RUNNING:
            row.settled_excess += job(row, j).excess
        else:  # it is about to leave, and will be projected when it starts again
            job(row, j).excess = 0.0
    weigh_anew(row)


@kernel
def assume_future(row, arrivals):
    """Replace all that the row knows of the future by ``arrivals`` [n] and by estimates.

    For copies of a row on which a policy thinks ahead: the original of a simulated one holds the
    jobs that will arrive, the incidents that will happen and the true run times. ``arrivals`` are
    REQUEST_DTYPE by submit time, none before now; the row has room for n more jobs.
    """
    row.num_incidents = row.next_incident
    row.num_jobs = row.next_arrival
    for j in range(row.num_jobs):
        state, ask = job(row, j).state, request(row, j)
        over = state == JobCode.COMPLETED or state == JobCode.FAILED or state == JobCode.ABSENT
        if not over and ask.kind != JobKind.SERVICE:
            assume_duration(row, np.int64(j), max(ask.requested_ms, work_of(row, j) + 1))
    for i in range(arrivals.shape[0]):
        load_job(row, row.num_jobs, arrivals[i])
        row.num_jobs += 1


@kernel
def add_arrival(row, ask, submit_ms, duration_ms):
    """Let a job like ``ask`` (REQUEST_DTYPE) arrive after all others and work for so long."""
    j = row.num_jobs
    copy_record(request(row, j), ask)
    request(row, j).submit_ms = np.int64(submit_ms)
    request(row, j).duration_ms = np.int64(duration_ms)
    _enter(row, j)
    row.num_jobs = j + 1
