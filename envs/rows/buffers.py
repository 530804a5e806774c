"""How rows are shown: the view of them, and what describing and stepping them writes into."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from orchestrator.kernels.place.memo import make_node_memo
from orchestrator.kernels.run.buffers import SETTINGS_DTYPE, Bench, Buffers, View
from orchestrator.kernels.see.candidates import MODELS
from orchestrator.kernels.see.cluster import RACK_SUMS
from orchestrator.kernels.see.layout import (
    CANDIDATE_NAMES,
    CAPACITY_NAMES,
    ELASTIC_NAMES,
    NODE_NAMES,
    RACK_NAMES,
    SERVICE_NAMES,
    SIZE_NAMES,
    TENANT_NAMES,
    VICTIM_NAMES,
    Maximum,
    ShareColumn,
    Shown,
    head_offsets,
)
from orchestrator.kernels.see.metrics import Metric
from orchestrator.kernels.see.queue import STATIC_WIDTH, make_scratch
from orchestrator.kernels.state.codes import NO_JOB
from orchestrator.kernels.state.row import ClusterShape, ClusterState, memo_described
from orchestrator.scheduling.rules import rule_named
from orchestrator.scheduling.schema import FeatureSchema

__all__ = [
    "Observation",
    "configure_view",
    "make_bench",
    "make_buffers",
    "make_view",
    "observed",
]

Observation = dict[str, NDArray[Any]]


def observed(buffers: Buffers, schema: FeatureSchema, e: int | slice = slice(None)) -> Observation:
    """What buffers say of a row, or of all, as observations hold it: views, not copies."""
    seen: Observation = {"global": buffers.globals[e], "action_mask": buffers.mask[e]}
    for part in schema.parts:
        seen[part] = getattr(buffers, part)[e]
    return seen


def configure_view(state: ClusterState, config: EnvConfig) -> None:
    """Say in all rows of a state which sets of its entities policies see.

    Rows of a live cluster are shown as those of the environment were: with its heads, moves among
    them, whatever else the cluster's own rules are.
    """
    rows = state.rows
    rows["queue_window"] = config.window
    rows["window_order"] = config.window_order
    rows["candidates"] = config.schema.actions.candidates
    rows["victims"] = config.victims
    rows["elastics"] = config.elastics
    rows["migrate"] = config.migrate
    rows["services"] = config.services
    rows["capacity_steps"] = config.capacity_steps


def make_view(config: EnvConfig, maxima: NDArray[np.float64] | None = None) -> View:
    """How rows of an environment are shown.

    Parameters
    ----------
    config : EnvConfig
    maxima : float64 [len(Maximum)] or None, optional
        What the published encoding scales by; no other one reads it.
    """
    settings = np.zeros(1, SETTINGS_DTYPE)
    settings["encoding"] = config.encoding
    settings["advice"] = config.advice is not None
    settings["tenants"] = config.tenants > 0
    settings["fleet"] = config.fleet
    settings["around"] = config.shows_surroundings
    return View(
        settings=settings,
        heads=head_offsets(config.schema.actions),
        generators=config.generators,
        advisor=rule_named(config.advice or "fcfs").to_record(),
        maxima=np.ones(len(Maximum)) if maxima is None else maxima,
    )


def make_buffers(shape: ClusterShape, config: EnvConfig) -> Buffers:
    """Allocate what steps of rows of a shape write."""
    E, Q, V = shape.envs, config.window, max(config.victims, 1)
    schema = config.schema
    pairs = Q * schema.actions.candidates if schema.candidates else 1
    width = len(schema.candidates if config.choose_node else NODE_NAMES)
    choices = max(config.elastics * schema.actions.sizes, 1)
    described = memo_described(config.nodes, E, max(shape.kinds, 0), width)

    def block(entities: int, names: tuple[str, ...]) -> NDArray[np.float32]:
        return np.zeros((E, max(entities, 1), len(names)), np.float32)

    return Buffers(
        queue=np.zeros((E, Q, len(schema.queue)), np.float32),
        globals=np.zeros((E, len(schema.globals)), np.float32),
        candidates=np.zeros((E, pairs, len(schema.candidates or CANDIDATE_NAMES)), np.float32),
        victims=block(V, schema.victims or VICTIM_NAMES),
        elastics=block(config.elastics, schema.elastics or ELASTIC_NAMES),
        services=block(config.services, schema.services or SERVICE_NAMES),
        capacity=block(2 * config.capacity_steps, schema.capacity or CAPACITY_NAMES),
        sizes=block(choices, schema.sizes or SIZE_NAMES),
        tenants=block(config.tenants, schema.tenants or TENANT_NAMES),
        racks=block(config.racks, schema.racks or RACK_NAMES),
        advice=np.zeros((E, schema.actions.size if schema.advice else 1), np.float32),
        mask=np.zeros((E, schema.actions.size), np.int8),
        reward=np.zeros(E),
        terminated=np.zeros(E, np.bool_),
        truncated=np.zeros(E, np.bool_),
        reason=np.zeros(E, np.int32),
        nodes_seen=np.full(E, -1, np.int64),
        shown=np.zeros((E, len(Shown)), np.int32),
        advised=np.full(E, -1, np.int32),
        window=np.full((E, Q), NO_JOB, np.int32),
        victim_jobs=np.full((E, V), NO_JOB, np.int32),
        elastic_jobs=np.full((E, max(config.elastics, 1)), NO_JOB, np.int32),
        resize_to=np.zeros((E, choices), np.int32),
        static=np.zeros((E, shape.jobs, STATIC_WIDTH), np.float32),
        metrics=np.zeros((E, len(Metric) + len(config.reward.own_terms))),
        scale=np.ones(E),
        episode=np.zeros(E, np.int64),
        start_index=np.zeros(E, np.int64),
        steps=np.zeros(E, np.int64),
        nodes=make_node_memo(E, described, config.nodes, width, MODELS),
    )


def make_bench(shape: ClusterShape, config: EnvConfig) -> Bench:
    """Allocate the scratch of one thread for rows of a shape."""
    releases, table, columns = make_scratch(shape.jobs, config.window)
    return Bench(
        nodes=np.zeros((len(config.placements) + 1) * shape.workers, np.int32),
        jobs=np.zeros(max(shape.jobs, shape.workers), np.int32),
        releases=releases,
        table=table,
        columns=columns,
        scores=np.zeros(config.window),
        racks=np.zeros((max(config.racks, 1), RACK_SUMS)),
        tenants=np.zeros((shape.tenants, len(ShareColumn))),
    )
