"""Many clusters as a native ``gymnasium.vector.VectorEnv``: one compiled call per step."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.config import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig
from envs.scenario import Scenario
from envs.setup import make_session, row_seeds
from envs.spaces import action_space, observation_space
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError

__all__ = [
    "SchedulingVectorEnv",
    "autoscaling_vector_env",
    "cluster_vector_env",
    "job_ordering_vector_env",
    "placement_vector_env",
]

Observation = dict[str, NDArray[Any]]


class SchedulingVectorEnv(VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """A batch of clusters, stepped together.

    Parameters
    ----------
    base : EnvConfig
    num_envs : int
    autoreset_mode : AutoresetMode
        As Gymnasium defines them: in the next step (default), in the same step (with
        ``final_obs`` in the infos), or not at all.
    copy : bool
        Return copies of the observations (default) or views into buffers that the next step
        overwrites.
    strict : bool
        Raise on an illegal action in any row.
    threads : int
        Threads that step the rows; they change the speed only.
    trace, part, starts, incidents, scenario, **overrides
        As for ``SchedulingEnv``.
    """

    def __init__(
        self,
        base: EnvConfig,
        num_envs: int = 1,
        *,
        trace: Trace | None = None,
        part: str = "train",
        starts: NDArray[np.int64] | None = None,
        incidents: NDArray[np.void] | None = None,
        scenario: Scenario | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        strict: bool = False,
        threads: int = 1,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        if render_mode is not None:
            raise ConfigurationError(
                f"render_mode is '{render_mode}'; a vector environment draws nothing, leave it out"
            )
        self.session = make_session(
            base, num_envs, trace, part, starts, incidents, overrides, scenario, threads
        )
        self.config = self.session.config
        self.num_envs = num_envs
        self.single_observation_space = observation_space(self.config)
        self.single_action_space = action_space(self.config)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self._copy = copy
        self._strict = strict
        self._over = np.zeros(num_envs, np.bool_)
        self._begun = False

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in all rows, or in those of ``options["reset_mask"]``.

        A row's seed means what it means to ``SchedulingEnv``; ``seed=s`` is short for
        ``[s, s + 1, ...]``. A row without a seed goes on with its sequence of episodes.
        ``options["window"]`` (one for all rows, or one each) plays a certain window.
        """
        which = self._rows_to_reset(options)
        seeds = list(seed) if isinstance(seed, list | tuple) else self._consecutive(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"reset: {len(seeds)} seeds for {self.num_envs} rows; give one each")
        for e in np.flatnonzero(which):
            if seeds[e] is not None or not self._begun:
                self.session.reseed_row(int(e), int(row_seeds(seeds[e], 1)[0]))
        windows = None
        if options is not None and "window" in options:
            windows = np.full(self.num_envs, options["window"], np.int64)
        self.session.reset(which, windows)
        self._begun = True
        self._over[which] = self.session.buffers.terminated[which]
        return self._observe(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        """Step all rows; rows that are over begin anew as the autoreset mode says."""
        if not self._begun:
            raise gymnasium.error.ResetNeeded("step() before reset(): call reset() first")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._over.any():
            raise gymnasium.error.ResetNeeded(
                f"step() after the end of the episode in rows {np.flatnonzero(self._over)}: "
                "reset them with options={'reset_mask': ...}"
            )
        session, buffers = self.session, self.session.buffers
        again = self._over.copy()
        session.step(np.ascontiguousarray(actions, np.int64))
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and again.any():
            # Whatever the step did to rows that were over, they begin anew, with reward 0.
            session.reset(again)
        if self._strict:
            session.require_legal()
        reward = buffers.reward.copy()
        terminated, truncated = buffers.terminated.copy(), buffers.truncated.copy()
        np.logical_or(terminated, truncated, out=self._over)
        infos: dict[str, Any] = {
            "illegal_actions": session.state.rows["illegal_actions"].copy(),
            "reason": buffers.reason.copy(),
        }
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            infos.update(self._final_infos())
            session.reset(self._over)
        return self._observe(), reward, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads that step rows."""
        self.session.close()

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions of all rows, bool [E, A]."""
        return self.session.buffers.mask.view(np.bool_)

    def _rows_to_reset(self, options: dict[str, Any] | None) -> NDArray[np.bool_]:
        if options is None or "reset_mask" not in options:
            return np.ones(self.num_envs, np.bool_)
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"reset: 'reset_mask' is {mask!r}; give a NumPy array of bool")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"reset: 'reset_mask' is {mask}; give {self.num_envs} values, at least one True"
            )
        if not self._begun and not mask.all():
            raise gymnasium.error.ResetNeeded("reset: the first reset must be of all rows")
        return mask.copy()

    def _consecutive(self, seed: int | None) -> list[int | None]:
        return [None if seed is None else seed + e for e in range(self.num_envs)]

    def _observe(self) -> Observation:
        seen = self.session.observation()
        return {name: part.copy() for name, part in seen.items()} if self._copy else seen

    def _final_infos(self) -> dict[str, Any]:
        """Last observations of the rows that are over, as Gymnasium lays them out."""
        over = self._over.copy()
        final = np.full(self.num_envs, None, dtype=object)
        for e in np.flatnonzero(over):
            final[e] = {k: part.copy() for k, part in self.session.observation(int(e)).items()}
        illegal = np.where(over, self.session.state.rows["illegal_actions"], 0)
        reason = np.where(over, self.session.buffers.reason, 0)
        return {
            "final_obs": final,
            "_final_obs": over,
            "final_info": {
                "illegal_actions": illegal,
                "_illegal_actions": over,
                "reason": reason,
                "_reason": over,
            },
            "_final_info": over,
        }


def job_ordering_vector_env(num_envs: int = 1, **kwargs: Any) -> SchedulingVectorEnv:
    """Vector entry point of ``quartermaster/JobOrdering-v0``."""
    return SchedulingVectorEnv(JOB_ORDERING, num_envs, **kwargs)


def cluster_vector_env(num_envs: int = 1, **kwargs: Any) -> SchedulingVectorEnv:
    """Vector entry point of ``quartermaster/Cluster-v0``."""
    return SchedulingVectorEnv(CLUSTER, num_envs, **kwargs)


def placement_vector_env(num_envs: int = 1, **kwargs: Any) -> SchedulingVectorEnv:
    """Vector entry point of ``quartermaster/Placement-v0``."""
    return SchedulingVectorEnv(PLACEMENT, num_envs, **kwargs)


def autoscaling_vector_env(num_envs: int = 1, **kwargs: Any) -> SchedulingVectorEnv:
    """Vector entry point of ``quartermaster/Autoscaling-v0``."""
    return SchedulingVectorEnv(AUTOSCALING, num_envs, **kwargs)
