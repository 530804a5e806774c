"""One cluster as a ``gymnasium.Env``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.config import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig
from envs.render import describe_decision, draw_occupancy
from envs.scenario import Scenario
from envs.setup import make_session, row_seeds
from envs.spaces import action_space, observation_space
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels.codes import Reason

__all__ = [
    "SchedulingEnv",
    "autoscaling_env",
    "cluster_env",
    "job_ordering_env",
    "placement_env",
]

Observation = dict[str, NDArray[Any]]


class SchedulingEnv(gymnasium.Env[Any, Any]):
    """A cluster whose scheduling decisions are the agent's.

    Parameters
    ----------
    base : EnvConfig
        The environment that the overrides change.
    trace : Trace or None
        Workload and cluster; None: the embedded generator.
    part : {"train", "validation", "test", "all"}
        Which part of the trace episodes are taken from.
    starts : int64 [M] or None
        The windows themselves, as first jobs; replaces ``part``.
    incidents : INCIDENT_DTYPE [I] or None
        Node failures and recoveries, times from the start of the episode.
    scenario : Scenario or None
        What surrounds the jobs; None: nothing or, where the environment has services, those of
        ``envs.defaults``.
    strict : bool
        Raise ``IllegalActionError`` on an illegal action. Otherwise it is a counted no-op.
    render_mode : {"ansi", "rgb_array"} or None
    **overrides
        Fields of ``EnvConfig``.

    Notes
    -----
    ``reset`` takes ``options={"window": i}`` to play a certain window. ``info`` holds ``time_s``,
    ``window``, ``illegal_actions`` and, after a step, ``reason`` ("ok" or why it was refused).
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        base: EnvConfig,
        *,
        trace: Trace | None = None,
        part: str = "train",
        starts: NDArray[np.int64] | None = None,
        incidents: NDArray[np.void] | None = None,
        scenario: Scenario | None = None,
        strict: bool = False,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            modes = self.metadata["render_modes"]
            raise ConfigurationError(f"unknown render_mode '{render_mode}'; use one of {modes}")
        self.session = make_session(base, 1, trace, part, starts, incidents, overrides, scenario)
        self.config = self.session.config
        self.observation_space = observation_space(self.config)
        self.action_space = action_space(self.config)
        self.render_mode = render_mode
        self._strict = strict
        self._actions = np.zeros(1, np.int64)
        self._window = np.zeros(1, np.int64)
        self._begun = False
        self._over = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; a seed starts the sequence of episodes over."""
        super().reset(seed=seed)
        if seed is not None or not self._begun:
            self.session.reseed(row_seeds(seed, 1))
        self._window[0] = -1 if options is None else int(options.get("window", -1))
        self.session.reset(windows=self._window)
        self._begun = True
        self._over = bool(self.session.buffers.terminated[0])
        return self._observe(), self._info()

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out an action and advance to the next decision."""
        if not self._begun:
            raise gymnasium.error.ResetNeeded("step() before reset(): call reset() first")
        if self._over:
            raise gymnasium.error.ResetNeeded(
                "step() after the end of the episode: call reset() to begin another"
            )
        self._actions[0] = action
        self.session.step(self._actions)
        buffers = self.session.buffers
        if self._strict and buffers.reason[0] != Reason.OK:
            reason = Reason(int(buffers.reason[0])).name.lower()
            what = self.config.schema.actions.describe(int(action))
            raise IllegalActionError(
                f"illegal action {action} ({what}): {reason}; choose one that action_mask allows"
            )
        terminated, truncated = bool(buffers.terminated[0]), bool(buffers.truncated[0])
        self._over = terminated or truncated
        info = self._info()
        info["reason"] = _REASONS[buffers.reason[0]]
        return self._observe(), float(buffers.reward[0]), terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions, as sb3-contrib asks for them."""
        mask: NDArray[np.bool_] = self.session.buffers.mask[0].astype(np.bool_)
        return mask

    def render(self) -> str | NDArray[np.uint8] | None:
        """The decision point in words, or the occupancy of the cluster over time as a picture."""
        if self.render_mode == "ansi":
            return describe_decision(self.session, 0)
        if self.render_mode == "rgb_array":
            return draw_occupancy(self.session, 0)
        return None

    def _observe(self) -> Observation:
        return {name: part.copy() for name, part in self.session.observation(0).items()}

    def _info(self) -> dict[str, Any]:
        row = self.session.state.rows[0]
        return {
            "time_s": float(row["now_ms"]) / 1000.0,
            "window": int(self.session.buffers.start_index[0]),
            "illegal_actions": int(row["illegal_actions"]),
        }


_REASONS = [reason.name.lower() for reason in Reason]


def job_ordering_env(**kwargs: Any) -> SchedulingEnv:
    """Entry point of ``quartermaster/JobOrdering-v0``."""
    return SchedulingEnv(JOB_ORDERING, **kwargs)


def cluster_env(**kwargs: Any) -> SchedulingEnv:
    """Entry point of ``quartermaster/Cluster-v0``."""
    return SchedulingEnv(CLUSTER, **kwargs)


def placement_env(**kwargs: Any) -> SchedulingEnv:
    """Entry point of ``quartermaster/Placement-v0``."""
    return SchedulingEnv(PLACEMENT, **kwargs)


def autoscaling_env(**kwargs: Any) -> SchedulingEnv:
    """Entry point of ``quartermaster/Autoscaling-v0``."""
    return SchedulingEnv(AUTOSCALING, **kwargs)
