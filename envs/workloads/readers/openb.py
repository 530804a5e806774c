"""Read Alibaba's cluster-trace-gpu-v2023 ("openb"), and prepare it as FGD's evaluation does.

Weng et al., USENIX ATC 2023; alibaba/clusterdata. The trace lists the machines of a GPU-sharing
cluster and the pods that were submitted to it. The evaluation of fragmentation gradient descent
(hkust-adsl/kubernetes-scheduler-simulator) lets pods arrive in random order, without departures,
until more GPUs have been asked for than there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import (
    EMPTY,
    Kind,
    csv_line,
    header,
    read_columns,
    read_text,
    require_columns,
)
from envs.workloads.table import blank_requests
from envs.workloads.trace import Trace, trace_from_file
from orchestrator.engine.records import gpu_models
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.kernels.state.codes import FOREVER_MS
from orchestrator.kernels.state.records import TYPICAL_DTYPE
from orchestrator.types import JobPriority, NodeSpec

__all__ = ["inflate", "read_openb", "read_openb_orders", "typical_pods"]

_PODS = "openb_pod_list_default.csv.gz"
_NODES = "openb_node_list_all_node.csv.gz"
_POD_KINDS = {
    "cpu_milli": Kind.INTEGER,
    "memory_mib": Kind.INTEGER,
    "num_gpu": Kind.INTEGER,
    "gpu_milli": Kind.INTEGER,
}
_SPEC = "gpu_spec"
_OPTIONAL_KINDS = {
    _SPEC: Kind.TEXT,
    "qos": Kind.TEXT,
    "creation_time": Kind.NUMBER,
    "deletion_time": Kind.NUMBER,
    "scheduled_time": Kind.NUMBER,
}
_NODE_KINDS = {"cpu_milli": Kind.INTEGER, "memory_mib": Kind.INTEGER, "model": Kind.TEXT}
_NODE_NAMES = ("sn", "node")
_GPU_NAMES = ("gpu", "gpus")
_NO_MODEL = "none"
_CLASSES: Mapping[str, tuple[JobPriority, bool]] = {
    "LS": (JobPriority.PRODUCTION, False),
    "Guaranteed": (JobPriority.PRODUCTION, False),
    "Burstable": (JobPriority.BATCH, False),
    "BE": (JobPriority.BEST_EFFORT, True),
    "": (JobPriority.BATCH, False),
}
_MOST = 1 << 30
_MOST_SECONDS = 1 << 40
_UNTIL = 0.95


def read_openb(
    path: str | Path, *, nodes: str | Path | None = None, gpu_nodes_only: bool = False
) -> Trace:
    """Read a pod list and a node list in the publisher's format.

    Parameters
    ----------
    path : str or Path
        A pod list (cpu_milli, memory_mib, num_gpu, gpu_milli and, if there, gpu_spec, qos,
        creation_time, scheduled_time and deletion_time, s), or a folder with the default one.
    nodes : str or Path or None, optional
        A node list (sn, cpu_milli, memory_mib, gpu, model); None: the publisher's, beside the
        pod list.
    gpu_nodes_only : bool, optional
        Leave out machines without GPUs.

    Returns
    -------
    Trace
        One worker per pod. Time 0 is the first creation; a pod without times arrives at 0, in
        the order of the file. The duration is the time from scheduling (or, for pods that never
        were, from creation) to deletion, at least 1 s; the estimate equals it. A pod without a
        deletion is censored: it lasts until the last time of the record. ``gpu_spec`` names the
        GPU models that will do, separated by ``|``. The quality-of-service class
        gives the priority: LS and Guaranteed production, Burstable batch, BE best effort; only
        the last is preemptible.

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    path = Path(path)
    if path.is_dir():
        path = path / _PODS
    machines = _read_nodes(path.parent / _NODES if nodes is None else Path(nodes))
    if gpu_nodes_only:
        machines = tuple(node for node in machines if node.gpus > 0)
    text = read_text(path)
    names = header(text)
    require_columns(path, names, _POD_KINDS, 1)
    optional = {name: kind for name, kind in _OPTIONAL_KINDS.items() if name in names}
    require_columns(path, names, optional, 1)
    table = read_columns(path, text, _POD_KINDS | optional)
    if table.num_rows == 0:
        raise TraceError(str(path), "holds no pods", "give a list with at least one row")
    numbers = {name: _numbers(path, text, table, name) for name in _POD_KINDS}
    requests = blank_requests(table.num_rows)
    gpus = numbers["num_gpu"]
    requests["cpu_milli"] = numbers["cpu_milli"]
    requests["memory_mib"] = numbers["memory_mib"]
    requests["gpus_per_worker"] = gpus
    shared = (gpus > 0) & (numbers["gpu_milli"] > 0)
    requests["gpu_milli"] = np.where(shared, numbers["gpu_milli"].clip(max=1000), 1000)
    _fill_times(path, text, requests, table)
    _fill_classes(path, text, requests, table)
    _fill_models(path, text, requests, table, machines)
    name = path.name.removesuffix(".gz").removesuffix(".csv")
    return trace_from_file(path, name, requests, nodes=machines)


def typical_pods(requests: NDArray[np.void], share: float = _UNTIL) -> NDArray[np.void]:
    """The most frequent classes of pods, by which fragmentation is measured.

    Parameters
    ----------
    requests : ndarray of REQUEST_DTYPE, shape [jobs]
        Pods.
    share : float, optional
        Classes are taken, the most frequent first and larger ones first among equals, until
        they cover this share of the pods.

    Returns
    -------
    ndarray of TYPICAL_DTYPE, shape [classes]
        With weights that add up to 1.
    """
    gpus = requests["gpus_per_worker"]
    milli = np.where(gpus > 0, requests["gpu_milli"], 0)
    rows = zip(
        requests["cpu_milli"].tolist(),
        milli.tolist(),
        gpus.tolist(),
        requests["model_mask"].tolist(),
        strict=True,
    )
    counts = sorted(((count, *key) for key, count in Counter(rows).items()), reverse=True)
    total, covered, used = len(requests), 0, 0
    while covered < share * total and used < len(counts):
        covered += counts[used][0]
        used += 1
    pods = np.zeros(used, TYPICAL_DTYPE)
    for pod, (count, cpu, gpu_milli, number, mask) in zip(pods, counts[:used], strict=True):
        # In this order: scores are truncated, and the last digit may matter.
        pod["weight"] = count / total
        if used < len(counts):
            pod["weight"] /= covered / total
        pod["cpu_milli"], pod["gpu_milli"] = cpu, gpu_milli
        pod["gpus"], pod["model_mask"] = number, mask
    return pods


def inflate(trace: Trace, ratio: float, seed: int) -> Trace:
    """Let pods arrive in random order until they ask for a multiple of the cluster's GPUs.

    Parameters
    ----------
    trace : Trace
        Pods of one worker each, and their cluster.
    ratio : float
        GPUs asked for, as a multiple of those that there are.
    seed : int
        Of the permutation, and of the pods that are drawn, with replacement, to follow it.

    Returns
    -------
    Trace
        All at time 0, in the order of arrival. A list that asks for more than the multiple
        loses pods at random instead.

    Raises
    ------
    ConfigurationError
        If the pods or the cluster have no GPUs.
    """
    size = trace.requests["gpus_per_worker"].astype(np.int64) * trace.requests["gpu_milli"]
    if trace.gpus == 0 or not size.any():
        raise ConfigurationError(
            f"trace '{trace.name}': pods or nodes have no GPUs; nothing to inflate"
        )
    target = ratio * trace.gpus * 1000
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(trace)).tolist()
    total = int(size.sum())
    while total > target:
        total -= int(size[chosen.pop(int(rng.integers(len(chosen))))])
    while True:
        pod = int(rng.integers(len(trace)))
        if total + size[pod] > target:
            break
        chosen.append(pod)
        total += int(size[pod])
    requests = trace.requests[chosen]
    requests["submit_ms"] = 0
    return replace(trace, name=f"{trace.name}-{ratio:g}-{seed}", requests=requests)


def read_openb_orders(
    path: str | Path,
    *,
    nodes: str | Path | None = None,
    keep_every: int = 1,
    ratio: float = 1.3,
    orders: int = 10,
    seed: int = 0,
) -> Trace:
    """Read openb's pods in several random orders of arrival, one after the other; nobody leaves.

    Parameters
    ----------
    path, nodes
        As for :func:`read_openb`; machines without GPUs are left out.
    keep_every : int, optional
        Keep every so many-th machine.
    ratio : float, optional
        GPUs that each order asks for, as a multiple of those that there are.
    orders : int, optional
        How many.
    seed : int, optional
        Of the first order, as :func:`inflate` takes it; the next one has the next seed.

    Returns
    -------
    Trace
        A pod a second, so that what is integrated over time is a sum over arrivals. A window of
        as many pods as an order has is a random order of its own, wherever it begins.
    """
    for name, value in (("orders", orders), ("keep_every", keep_every)):
        if value < 1:
            raise ConfigurationError(f"openb_orders: '{name}' is {value}; at least 1")
    trace = read_openb(path, nodes=nodes, gpu_nodes_only=True)
    if keep_every > 1:
        trace = _on_fewer(trace, keep_every)
    parts = [inflate(trace, ratio, seed + k).requests for k in range(orders)]
    requests = np.concatenate(parts)
    requests["duration_ms"] = requests["requested_ms"] = FOREVER_MS
    requests["submit_ms"] = 1000 * np.arange(len(requests))
    return replace(trace, name=f"{trace.name}-{ratio:g}x{orders}-{seed}", requests=requests)


def _on_fewer(trace: Trace, keep_every: int) -> Trace:
    """The same pods and every so many-th machine."""
    machines = trace.nodes[::keep_every]
    lost = sorted(set(gpu_models(trace.nodes)) - set(gpu_models(machines)))
    if lost:
        raise ConfigurationError(
            f"openb_orders: 'keep_every' is {keep_every}, which leaves no machine with GPU model "
            f"{lost[0]} that pods ask for; keep more"
        )
    return replace(trace, name=f"{trace.name}/{keep_every}", nodes=machines)


def _refuse(path: Path, text: str, bad: NDArray[np.bool_], problem: str, remedy: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise TraceError(str(path), problem, remedy, csv_line(text, row))


def _numbers(path: Path, text: str, table: Any, name: str) -> NDArray[np.int64]:
    """A column of counts; an empty cell, a negative or a huge number is refused."""
    values = np.asarray(table[name].fill_null(-1), np.int64)
    high = 64 if name == "num_gpu" else (1000 if name == "gpu_milli" else _MOST)
    wrong = (values < 0) | (values > high)
    _refuse(path, text, wrong, f"column '{name}' is out of range", f"give 0 to {high}")
    return values


def _times(path: Path, text: str, table: Any, name: str) -> NDArray[np.float64]:
    """A column of times, s; NaN where the cell is empty or there is no such column."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    values = np.asarray(table[name].to_numpy(), np.float64)
    wrong = (values < 0) | (values > _MOST_SECONDS)
    remedy = "give seconds from 0 on, or leave the cell empty"
    _refuse(path, text, wrong, f"column '{name}' is out of range", remedy)
    return values


def _fill_times(path: Path, text: str, requests: NDArray[np.void], table: Any) -> None:
    """Submissions and durations; a pod without an end lasts until the last time of the record."""
    requests["duration_ms"] = 1000
    if "creation_time" in table.column_names:
        created, began, ended = (
            _times(path, text, table, name)
            for name in ("creation_time", "scheduled_time", "deletion_time")
        )
        empty = "column 'creation_time' is empty"
        _refuse(path, text, np.isnan(created), empty, "fill in the cell, or leave out the column")
        early = ended < created
        problem = "column 'deletion_time' is earlier than 'creation_time'"
        _refuse(path, text, early, problem, "correct or remove the line")
        last = np.nanmax(np.stack([created, began, ended]))
        began = np.where(np.isnan(began), created, began)
        ended = np.where(np.isnan(ended), last, ended)
        requests["submit_ms"] = np.rint((created - created.min()) * 1000)
        requests["duration_ms"] = np.rint(np.maximum(ended - began, 1) * 1000)
    requests["requested_ms"] = requests["duration_ms"]


def _fill_classes(path: Path, text: str, requests: NDArray[np.void], table: Any) -> None:
    if "qos" not in table.column_names:
        return
    classes = ["" if name in EMPTY else name for name in table["qos"].to_pylist()]
    unknown = np.array([name not in _CLASSES for name in classes])
    known = ", ".join(name for name in _CLASSES if name)
    _refuse(path, text, unknown, "column 'qos' holds an unknown class", f"known are {known}")
    requests["priority"] = [_CLASSES[name][0].value for name in classes]
    requests["preemptible"] = [_CLASSES[name][1] for name in classes]


def _fill_models(
    path: Path,
    text: str,
    requests: NDArray[np.void],
    table: Any,
    machines: tuple[NodeSpec, ...],
) -> None:
    models = gpu_models(machines)
    if len(models) > 32:
        raise TraceError(str(path), f"knows {len(models)} GPU models", "at most 32 are possible")
    masks = []
    if _SPEC not in table.column_names:
        return
    for spec in table[_SPEC].to_pylist():
        wanted = [name.strip() for name in spec.split("|") if name.strip() not in EMPTY]
        mask = sum(1 << models.index(name) for name in set(wanted) if name in models)
        masks.append(-1 if wanted and mask == 0 else mask)
    found = np.array(masks, np.int64)
    remedy = f"the nodes have {', '.join(models)}"
    _refuse(path, text, found < 0, "column 'gpu_spec' names no GPU model of the nodes", remedy)
    requests["model_mask"] = found


def _read_nodes(path: Path) -> tuple[NodeSpec, ...]:
    """Read the list of machines, in the order of their names."""
    text = read_text(path)
    names = header(text)
    name = next((name for name in _NODE_NAMES if name in names), _NODE_NAMES[0])
    gpu = next((gpu for gpu in _GPU_NAMES if gpu in names), _GPU_NAMES[0])
    kinds = {name: Kind.TEXT, gpu: Kind.INTEGER} | _NODE_KINDS
    require_columns(path, names, kinds, 1)
    table = read_columns(path, text, kinds)
    if table.num_rows == 0:
        raise TraceError(str(path), "lists no machines", "give at least one")
    columns = {field: table[field].to_pylist() for field in kinds}
    for field in (gpu, "cpu_milli", "memory_mib"):
        high = 64 if field == gpu else _MOST
        wrong = np.array([cell is None or not 0 <= cell <= high for cell in columns[field]])
        _refuse(path, text, wrong, f"column '{field}' is out of range", f"give 0 to {high}")
    wrong = np.array([cell in EMPTY for cell in columns[name]])
    _refuse(path, text, wrong, f"column '{name}' is empty", "give every machine a name")
    uneven = np.array([cell % 1000 != 0 for cell in columns["cpu_milli"]])
    _refuse(path, text, uneven, "column 'cpu_milli' is no whole number of cores", "give 1000s")
    machines = [
        NodeSpec(
            node_id=columns[name][i],
            gpus=columns[gpu][i],
            gpu_memory_gb=0.0,
            cpu_cores=columns["cpu_milli"][i] // 1000,
            memory_gb=columns["memory_mib"][i] / 1024,
            network_bandwidth_gbps=0.0,
            gpu_topology="PCIe",
            gpu_model=_NO_MODEL if columns["model"][i] in EMPTY else columns["model"][i],
        )
        for i in range(table.num_rows)
    ]
    return tuple(sorted(machines, key=lambda node: node.node_id))
