"""Gymnasium spaces of a feature schema."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from envs.config import EnvConfig

__all__ = ["action_space", "observation_space"]


def _box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def observation_space(config: EnvConfig) -> spaces.Dict:
    """Sets of fixed capacity, padded with zeros, and the mask of legal actions.

    ``queue`` [Q, F], ``global`` [G], ``action_mask`` [A]; with chosen placements also
    ``candidates`` [Q * K, C], with preemption ``victims`` [V, F_v], with resizing ``elastics``
    [E, F_e], with services ``services`` [S, F_s], with a changing fleet ``capacity`` [2 c, F_c],
    ``tenants`` [T, F_t] and ``racks`` [R, F_r] where they are shown, with advice ``advice`` [A].
    """
    schema, layout = config.schema, config.schema.actions
    parts: dict[str, spaces.Space[np.ndarray]] = {
        "global": _box(len(schema.globals)),
        "action_mask": spaces.MultiBinary(layout.size),
    }
    if schema.queue:
        parts["queue"] = _box(layout.window, len(schema.queue))
    if schema.candidates:
        parts["candidates"] = _box(layout.window * layout.candidates, len(schema.candidates))
    if schema.victims:
        parts["victims"] = _box(layout.victims, len(schema.victims))
    if schema.advice:
        parts["advice"] = _box(layout.size)
    if schema.elastics:
        parts["elastics"] = _box(layout.elastics, len(schema.elastics))
    if schema.services:
        parts["services"] = _box(layout.services, len(schema.services))
    if schema.capacity:
        parts["capacity"] = _box(2 * layout.capacity_steps, len(schema.capacity))
    if schema.tenants:
        parts["tenants"] = _box(schema.tenants_shown, len(schema.tenants))
    if schema.racks:
        parts["racks"] = _box(schema.racks_shown, len(schema.racks))
    return spaces.Dict(parts)


def action_space(config: EnvConfig) -> spaces.Discrete:
    """One flat ``Discrete``; see ``ActionLayout``."""
    return spaces.Discrete(config.schema.actions.size)
