"""A job that looks for a node, and the pool of nodes, in terms of nodes: the PLACEMENT encoding.

In terms of a cluster of thousands of GPUs, as other encodings have it, all pods would look alike.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import NodeCode
from orchestrator.kernels.fastlog import fast_log
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.metrics import fragmented_milli
from orchestrator.kernels.see.layout import PodColumn, PoolColumn
from orchestrator.kernels.slots import WHOLE, node_allows
from orchestrator.kernels.tables import node, request

__all__ = ["encode_pods", "encode_pool"]

_F = np.float32


@kernel
def _admitted(row, j):
    """Share of all GPUs that are of a model that will do, with enough memory."""
    if request(row, j).model_mask == 0 and request(row, j).gpu_memory_mib == 0:
        return 1.0
    gpus = np.int64(0)
    for n in range(row.num_nodes):
        if node_allows(row, j, n):
            gpus += node(row, n).gpus
    return gpus * 1000.0 / max(row.nominal_gpu_milli, 1)


@kernel
def encode_pods(row, window, count, out):
    """Describe the ``count`` jobs of a window, float32 [window, len(POD_NAMES)]."""
    cpu, memory = np.int64(1), np.int64(1)
    for n in range(row.num_nodes):
        cpu = max(cpu, node(row, n).cpu_cap_milli)
        memory = max(memory, node(row, n).memory_cap_mib)
    for i in range(count):
        j = np.int64(window[i])
        ask = request(row, j)
        gpus = ask.workers * ask.gpus_per_worker
        out[i, PodColumn.GPUS] = _F(gpus / 8.0)
        out[i, PodColumn.GPU_SHARE] = _F(ask.gpu_milli / 1000.0 if gpus > 0 else 0.0)
        out[i, PodColumn.SHARED] = _F(1.0 if gpus > 0 and ask.gpu_milli < WHOLE else 0.0)
        out[i, PodColumn.CPU] = _F(ask.workers * ask.cpu_milli / cpu)
        out[i, PodColumn.MEMORY] = _F(ask.workers * ask.memory_mib / memory)
        out[i, PodColumn.ADMITTED] = _F(_admitted(row, j))
        out[i, PodColumn.PRIORITY] = _F(1.0 - ask.priority / 3.0)
        out[i, PodColumn.LOG_WORKERS] = _F(0.2) * fast_log(_F(ask.workers))
        out[i, PodColumn.LOG_REQUEST] = _F(0.1) * fast_log(_F(1.0 + ask.requested_ms / 1000.0))
        out[i, PodColumn.LOG_WAIT] = _F(0.1) * fast_log(
            _F(1.0 + (row.now_ms - ask.submit_ms) / 1000.0)
        )


@kernel
def encode_pool(row, out):
    """The global vector of the PLACEMENT encoding, float32 [len(POOL_NAMES)]."""
    gpu, cpu, memory = np.int64(0), np.int64(0), np.int64(0)
    whole, empty = np.int64(0), np.int64(0)
    for n in range(row.num_nodes):
        host = node(row, n)
        if host.state == NodeCode.UP:
            gpu += host.gpu_free_milli
            cpu += host.cpu_free_milli
            memory += host.memory_free_mib
            whole += host.whole_free
            empty += host.workers == 0
    gpus = max(row.nominal_gpu_milli, 1)
    out[PoolColumn.FREE_SHARE] = _F(gpu / gpus)
    out[PoolColumn.CPU_FREE_SHARE] = _F(cpu / max(row.nominal_cpu_milli, 1))
    out[PoolColumn.MEMORY_FREE_SHARE] = _F(memory / max(row.nominal_memory_mib, 1))
    out[PoolColumn.FRAGMENTED_SHARE] = _F(fragmented_milli(row) / gpus)
    out[PoolColumn.WHOLE_SHARE] = _F(whole * 1000.0 / gpus)
    out[PoolColumn.EMPTY_NODES] = _F(empty / max(row.num_nodes, 1))
    out[PoolColumn.LOG_QUEUE] = _F(0.2) * fast_log(_F(1.0 + row.queue_len))
