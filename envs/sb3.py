"""A native stable-baselines3 ``VecEnv``: no per-row objects, no copies of infos.

Import this module only where stable-baselines3 is wanted; the rest of ``envs`` does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from envs.checks import check_type, integers
from envs.config import Illegal
from envs.gym import action_space, observation_space, row_seeds
from envs.gym.single import REASONS
from envs.session import Session
from orchestrator.errors import ConfigurationError, IllegalActionError, UnknownOptionError

__all__ = ["SchedulingVecEnv", "make_sb3"]

_OF_GYMNASIUM = ("autoreset_mode", "copy", "render_mode")


class SchedulingVecEnv(VecEnv):
    """Rows of a session, reset in the step that ends them, as stable-baselines3 expects.

    :func:`make_sb3` makes one by an environment's id.

    Parameters
    ----------
    session : Session
    seed : int
        Seed of all rows' episodes.

    Notes
    -----
    Observations are copies, since algorithms store the last one after the next step; masks are
    views that the next step overwrites. ``info`` of an ended row holds what a single environment's
    does, ``terminal_observation``, ``TimeLimit.truncated`` and, as a Monitor's, ``episode``: its
    return ``r``, its length ``l`` and its metrics; rows that go on have none.
    """

    render_mode = None  # the base class asks for it before it has been initialised

    def __init__(self, session: Session, seed: int = 0) -> None:
        check_type("SchedulingVecEnv: 'session'", session, Session, "a Session")
        super().__init__(
            session.envs, observation_space(session.config), action_space(session.config)
        )
        self.session = session
        self.schema = session.schema
        self.config = session.config
        self._raises = self.config.illegal == Illegal.RAISE
        self.session.reseed(row_seeds(seed, session.envs))
        self._actions = np.zeros(session.envs, np.int64)
        self._returns = np.zeros(session.envs)
        self._infos: list[dict[str, Any]] = [{} for _ in range(session.envs)]

    def __copy__(self) -> SchedulingVecEnv:
        """A copy that goes on by itself: a shared session would step both."""
        return deepcopy(self)

    def reset(self) -> dict[str, NDArray[Any]]:
        """Begin an episode in all rows."""
        self.session.reset()
        self._returns[:] = 0.0
        return self._observe()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Remember the actions of all rows."""
        actions = integers("step: 'actions'", actions)
        if actions.shape != self._actions.shape:
            raise ConfigurationError(
                f"step: 'actions' has shape {actions.shape}; give one for each of "
                f"{len(self._actions)} rows"
            )
        self._actions[:] = actions

    def step_wait(
        self,
    ) -> tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step all rows; those that end begin anew."""
        session, buffers = self.session, self.session.buffers
        session.advance(self._actions)
        self._returns += buffers.reward
        reward = buffers.reward.astype(np.float32)
        over = np.logical_or(buffers.terminated, buffers.truncated)
        if self._raises:
            self._require_legal(over)
        infos = self._infos
        if over.any():
            infos = [{} for _ in range(session.envs)]
            for e in np.flatnonzero(over):
                infos[e] = self._last_info(int(e))
            self._begin_anew(over)
        return self._observe(), reward, over, infos

    def _require_legal(self, over: NDArray[np.bool_]) -> None:
        """Raise if an action was refused; rows that are over begin anew as without that."""
        try:
            self.session.require_legal()
        except IllegalActionError:
            self._begin_anew(over)
            raise

    def _begin_anew(self, over: NDArray[np.bool_]) -> None:
        self._returns[over] = 0.0
        self.session.reset(over)

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions of all rows, bool [E, A]."""
        return self.session.masks().view(np.bool_)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Per-row results of ``action_masks``, the one method that rows have."""
        if method_name != "action_masks":
            raise ConfigurationError(f"rows have no method '{method_name}', only action_masks")
        masks = self.action_masks()
        return [masks[e] for e in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for every row."""
        value = getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Rows share one configuration, so nothing can be set on some of them."""
        raise ConfigurationError(f"rows share one configuration: cannot set '{attr_name}' on some")

    def has_attr(self, attr_name: str) -> bool:
        """Whether every row has an attribute."""
        return hasattr(self, attr_name)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Rows are not wrapped."""
        return [False for _ in self._get_indices(indices)]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed all rows; takes effect with the next reset."""
        self.session.reseed(row_seeds(seed, self.session.envs))
        return [seed] * self.session.envs

    def close(self) -> None:
        """End the threads that step rows."""
        self.session.close()

    def _observe(self) -> dict[str, NDArray[Any]]:
        return self.session.told()

    def _last_info(self, e: int) -> dict[str, Any]:
        session, buffers = self.session, self.session.buffers
        metrics = session.episode_metrics(e)
        told = {"r": float(self._returns[e]), "l": int(buffers.steps[e]), "t": 0.0}
        return {
            "time_s": float(session.now_ms[e]) / 1000.0,
            "window": int(buffers.start_index[e]),
            "illegal_actions": int(session.illegal_actions[e]),
            "reason": REASONS[buffers.reason[e]],
            "episode_metrics": metrics,
            "episode": {**metrics, **told},
            "terminal_observation": session.told(e),
            "TimeLimit.truncated": bool(buffers.truncated[e] and not buffers.terminated[e]),
        }


def make_sb3(
    env_id: str, n_envs: int = 1, *, seed: int = 0, part: str = "train", **kwargs: Any
) -> SchedulingVecEnv:
    """Make the rows of a registered environment for stable-baselines3's algorithms.

    Parameters
    ----------
    env_id : str
        For example ``"quartermaster/JobOrdering-v0"``.
    n_envs : int, optional
    seed : int, optional
        Seed of all rows' episodes.
    part : {"train", "validation", "test", "all"}, optional
        Which part of the trace episodes are taken from: train on one, judge on another.
    **kwargs
        ``workload``, ``nodes``, ``trace``, ``starts``, ``incidents``, ``scenario``, ``threads``,
        ``max_episode_steps``, fields of ``EnvConfig``.

    Returns
    -------
    SchedulingVecEnv

    Raises
    ------
    ConfigurationError
        If the environment is none of ours, or an argument is wrong.
    """
    for name in kwargs:
        if name in _OF_GYMNASIUM:
            raise UnknownOptionError(
                f"make_sb3: got an unexpected keyword argument '{name}': stable-baselines3 settles "
                f"that itself; leave it out"
            )
    if not str(gymnasium.spec(env_id).vector_entry_point).startswith("envs.gym."):
        raise ConfigurationError(
            f"make_sb3: '{env_id}' is no environment of this package; name one, for example "
            f"'quartermaster/Cluster-v0', or use stable-baselines3's own make_vec_env"
        )
    made: Any = gymnasium.make_vec(env_id, n_envs, "vector_entry_point", part=part, **kwargs)
    return SchedulingVecEnv(made.session, seed)
