"""Many clusters as a native ``gymnasium.vector.VectorEnv``: one compiled call per step."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.config import CLUSTER, JOB_ORDERING, EnvConfig
from envs.setup import make_session
from envs.spaces import action_space, observation_space
from envs.workloads import Trace

__all__ = ["SchedulingVectorEnv", "cluster_vector_env", "job_ordering_vector_env", "row_seeds"]

Observation = dict[str, NDArray[Any]]


def row_seeds(seed: int | None, envs: int) -> NDArray[np.uint64]:
    """Seeds of all rows from one; None: from the operating system."""
    return np.random.SeedSequence(seed).generate_state(envs, np.uint64).astype(np.uint64)


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
    trace, part, starts, incidents, **overrides
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
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        strict: bool = False,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        self.session = make_session(base, num_envs, trace, part, starts, incidents, overrides)
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
        """Begin an episode in all rows, or in those of ``options["reset_mask"]``."""
        if isinstance(seed, list):
            self.session.reseed(np.array([row_seeds(s, 1)[0] for s in seed], np.uint64))
        elif seed is not None or not self._begun:
            self.session.reseed(row_seeds(seed, self.num_envs))
        which = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            which = np.asarray(options["reset_mask"], np.bool_)
        self.session.reset(which)
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
        if self._strict:
            session.require_legal()
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and again.any():
            # The step left finished rows as they were, with reward 0; now they begin anew.
            session.reset(again)
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

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions of all rows, bool [E, A]."""
        return self.session.buffers.mask.view(np.bool_)

    def _observe(self) -> Observation:
        seen = self.session.observation()
        return {name: part.copy() for name, part in seen.items()} if self._copy else seen

    def _final_infos(self) -> dict[str, Any]:
        """Last observations of the rows that are over, as Gymnasium lays them out."""
        final = np.full(self.num_envs, None, dtype=object)
        for e in np.flatnonzero(self._over):
            final[e] = {k: part.copy() for k, part in self.session.observation(int(e)).items()}
        return {
            "final_obs": final,
            "_final_obs": self._over.copy(),
            "final_info": {},
            "_final_info": self._over.copy(),
        }


def job_ordering_vector_env(num_envs: int = 1, **kwargs: Any) -> SchedulingVectorEnv:
    """Vector entry point of ``quartermaster/JobOrdering-v0``."""
    return SchedulingVectorEnv(JOB_ORDERING, num_envs, **kwargs)


def cluster_vector_env(num_envs: int = 1, **kwargs: Any) -> SchedulingVectorEnv:
    """Vector entry point of ``quartermaster/Cluster-v0``."""
    return SchedulingVectorEnv(CLUSTER, num_envs, **kwargs)
