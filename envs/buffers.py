"""What steps of rows write, their scratch, and how observations lie in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from orchestrator.kernels import session as kernels
from orchestrator.kernels.candidates import CANDIDATE_NAMES, VICTIM_NAMES
from orchestrator.kernels.codes import NO_JOB
from orchestrator.kernels.elastics import ELASTIC_NAMES
from orchestrator.kernels.features import STATIC_WIDTH, make_scratch
from orchestrator.kernels.metrics import Metric
from orchestrator.kernels.node_choices import MODELS, NODE_NAMES
from orchestrator.kernels.packing_state import memo_described
from orchestrator.kernels.place.memo import make_node_memo
from orchestrator.kernels.state import ClusterShape, ClusterState
from orchestrator.kernels.surroundings import (
    CAPACITY_NAMES,
    RACK_NAMES,
    SERVICE_NAMES,
    TENANT_NAMES,
)
from orchestrator.scheduler.schema import FeatureSchema

__all__ = ["configure_view", "make_bench", "make_buffers", "observed"]

Observation = dict[str, NDArray[Any]]


def observed(
    buffers: kernels.Buffers, schema: FeatureSchema, e: int | slice = slice(None)
) -> Observation:
    """What buffers say of a row, or of all, as observations hold it: views, not copies."""
    seen: Observation = {"global": buffers.globals[e], "action_mask": buffers.mask[e]}
    if schema.queue:
        seen["queue"] = buffers.queue[e]
    if schema.candidates:
        seen["candidates"] = buffers.candidates[e]
    if schema.victims:
        seen["victims"] = buffers.victims[e]
    if schema.advice:
        seen["advice"] = buffers.advice[e]
    for part in ("elastics", "services", "capacity", "tenants", "racks"):
        if getattr(schema, part):
            seen[part] = getattr(buffers, part)[e]
    return seen


def configure_view(state: ClusterState, config: EnvConfig) -> None:
    """Say in all rows of a state which sets of its entities policies see."""
    rows = state.rows
    rows["queue_window"] = config.window
    rows["window_order"] = config.window_order
    rows["candidates"] = config.schema.actions.candidates
    rows["victims"] = config.victims
    rows["elastics"] = config.elastics
    rows["migrate"] = config.migrate
    rows["services"] = config.services
    rows["capacity_steps"] = config.capacity_steps


def make_buffers(shape: ClusterShape, config: EnvConfig) -> kernels.Buffers:
    """Allocate what steps of rows of a shape write."""
    E, Q, V = shape.envs, config.window, max(config.victims, 1)
    schema = config.schema
    described = memo_described(config.nodes, E, max(shape.kinds, 0), len(NODE_NAMES))
    pairs = Q * schema.actions.candidates if schema.candidates else 1
    return kernels.Buffers(
        queue=np.zeros((E, Q, len(schema.queue)), np.float32),
        globals=np.zeros((E, len(schema.globals)), np.float32),
        candidates=np.zeros((E, pairs, len(schema.candidates or CANDIDATE_NAMES)), np.float32),
        victims=np.zeros((E, V, len(VICTIM_NAMES)), np.float32),
        elastics=np.zeros((E, max(config.elastics, 1), len(ELASTIC_NAMES)), np.float32),
        services=np.zeros((E, max(config.services, 1), len(SERVICE_NAMES)), np.float32),
        capacity=np.zeros((E, max(2 * config.capacity_steps, 1), len(CAPACITY_NAMES)), np.float32),
        tenants=np.zeros((E, max(config.tenants, 1), len(TENANT_NAMES)), np.float32),
        racks=np.zeros((E, max(config.racks, 1), len(RACK_NAMES)), np.float32),
        advice=np.zeros((E, schema.actions.size if schema.advice else 1), np.float32),
        mask=np.zeros((E, schema.actions.size), np.int8),
        reward=np.zeros(E),
        terminated=np.zeros(E, np.bool_),
        truncated=np.zeros(E, np.bool_),
        reason=np.zeros(E, np.int32),
        nodes_seen=np.full(E, -1, np.int64),
        shown=np.zeros((E, 3), np.int32),
        advised=np.full(E, -1, np.int32),
        window=np.full((E, Q), NO_JOB, np.int32),
        victim_jobs=np.full((E, V), NO_JOB, np.int32),
        elastic_jobs=np.full((E, max(config.elastics, 1)), NO_JOB, np.int32),
        static=np.zeros((E, shape.jobs, STATIC_WIDTH), np.float32),
        metrics=np.zeros((E, len(Metric))),
        scale=np.ones(E),
        episode=np.zeros(E, np.int64),
        start_index=np.zeros(E, np.int64),
        steps=np.zeros(E, np.int64),
        nodes=make_node_memo(E, described, config.nodes, len(NODE_NAMES), MODELS),
    )


def make_bench(shape: ClusterShape, config: EnvConfig) -> kernels.Bench:
    """Allocate the scratch of one thread for rows of a shape."""
    releases, table, columns = make_scratch(shape.jobs, config.window)
    return kernels.Bench(
        nodes=np.zeros((len(config.placements) + 1) * shape.workers, np.int32),
        jobs=np.zeros(max(shape.jobs, shape.workers), np.int32),
        releases=releases,
        table=table,
        columns=columns,
        scores=np.zeros(config.window),
        racks=np.zeros((max(config.racks, 1), len(RACK_NAMES) + 4)),
        tenants=np.zeros((shape.tenants, 2)),
        metrics=np.zeros((1, len(Metric))),
    )
