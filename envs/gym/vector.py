"""A batch of clusters as a Gymnasium environment: many in one compiled call per step."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.checks import check_flag, check_whole, integers, seed_of
from envs.config import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig, Illegal
from envs.gym.making import action_space, observation_space, row_seeds, session_of
from envs.gym.single import REASONS, reset_options
from envs.gym.states import RowState, restore_row, save_row
from envs.scenario import Scenario
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels.state.codes import Reason

__all__ = [
    "SchedulingVectorEnv",
    "autoscaling_vector_env",
    "cluster_vector_env",
    "job_ordering_vector_env",
    "placement_vector_env",
]

Observation = dict[str, NDArray[Any]]


def _autoreset_mode(mode: Any) -> AutoresetMode:
    """One of Gymnasium's, by name, too."""
    known = [each.value for each in AutoresetMode]
    if not isinstance(mode, AutoresetMode) and mode not in known:
        raise ConfigurationError(f"environment: 'autoreset_mode' is {mode!r}; use one of {known}")
    return AutoresetMode(mode)


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
    threads : int
        Threads that step the rows; they change the speed only.
    workload, nodes, trace, part, starts, incidents, scenario, **overrides
        As for ``SchedulingEnv``; ``max_episode_steps`` is a bound of ``step_limit``.

    Notes
    -----
    The infos are those of ``SchedulingEnv``, an array each, as Gymnasium's own vector environments
    lay them out: ``_name`` says which rows have an info.
    """

    def __copy__(self) -> SchedulingVectorEnv:
        """A copy that goes on by itself: a shared session would step both."""
        return deepcopy(self)

    def __init__(
        self,
        base: EnvConfig,
        num_envs: int = 1,
        *,
        workload: Any = None,
        nodes: Any = None,
        trace: Trace | None = None,
        part: str = "train",
        starts: NDArray[np.int64] | None = None,
        incidents: NDArray[np.void] | None = None,
        scenario: Scenario | str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        threads: int = 1,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        if render_mode is not None:
            raise ConfigurationError(
                f"render_mode is '{render_mode}'; a vector environment draws nothing, leave it out"
            )
        check_flag("environment: 'copy'", copy)
        num_envs = check_whole("environment: 'num_envs'", num_envs, 1)
        given = {"part": part, "starts": starts, "incidents": incidents, "scenario": scenario}
        given.update(overrides)
        self.session = session_of(
            base, num_envs, given, trace=trace, workload=workload, nodes=nodes, threads=threads
        )
        self.config = self.session.config
        self.num_envs = num_envs
        self.single_observation_space = observation_space(self.config)
        self.single_action_space = action_space(self.config)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self._copy = copy
        self._raises = self.config.illegal == Illegal.RAISE
        self._over = np.zeros(num_envs, np.bool_)
        self._begun = False
        # What most infos hold: shared by all of them, so nobody may write it.
        self._numbers = np.arange(num_envs)
        self._every = np.ones(num_envs, np.bool_)
        self._all_ok = np.full(num_envs, REASONS[Reason.OK], dtype=object)
        self._every.flags.writeable = self._all_ok.flags.writeable = False

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | NDArray[np.integer] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in all rows, or in those of ``options["reset_mask"]``.

        A row's seed means what it means to ``SchedulingEnv``; ``seed=s`` is short for
        ``[s, s + 1, ...]``. A row without a seed goes on with its sequence of episodes.
        ``options["window"]`` (one for all rows, or one each) plays a certain window.
        """
        options = reset_options(options)
        which = self._rows_to_reset(options)
        seeds = self._seeds(seed)
        windows = None
        if "window" in options:
            given = integers("reset: 'window'", options["window"])
            if given.shape not in ((), (self.num_envs,)):
                raise ConfigurationError(
                    f"reset: 'window' has shape {given.shape}; give one, or one for each of "
                    f"{self.num_envs} rows"
                )
            windows = np.full(self.num_envs, given, np.int64)
        for e in np.flatnonzero(which):
            if seeds[e] is not None or not self._begun:
                self.session.reseed_row(int(e), int(row_seeds(seeds[e], 1)[0]))
        self.session.reset(which, windows)
        self._begun = True
        self._over[which] = self.session.buffers.terminated[which]
        return self._observe(), self._infos(which, ~self._every)

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
        again, asked = self._over.copy(), self._every
        session.step(actions)
        if self.autoreset_mode == AutoresetMode.NEXT_STEP and again.any():
            # Whatever the step did to rows that were over, they begin anew, with reward 0.
            session.reset(again)
            asked = ~again
        reward = buffers.reward.copy()
        terminated, truncated = buffers.terminated.copy(), buffers.truncated.copy()
        np.logical_or(terminated, truncated, out=self._over)
        if self._raises:
            self._require_legal()
        final: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            final, asked = self._final_infos(), ~self._over
            session.reset(self._over)
        infos = self._infos(self._every, asked)
        if not final:
            self._add_metrics(infos, self._over & asked)
        infos.update(final)
        return self._observe(), reward, terminated, truncated, infos

    def _require_legal(self) -> None:
        """Raise if an action was refused; rows that are over begin anew as without that."""
        try:
            self.session.require_legal()
        except IllegalActionError:
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                self.session.reset(self._over)
            raise

    def copy(self) -> SchedulingVectorEnv:
        """Rows of their own that go on exactly as these would; see ``SchedulingEnv.copy``."""
        return deepcopy(self)

    def get_state(self, rows: Sequence[int] | None = None) -> list[RowState]:
        """The states of some rows, or of all; see ``SchedulingEnv.get_state``."""
        if not self._begun:
            raise gymnasium.error.ResetNeeded("get_state() before reset(): call reset() first")
        return [save_row(self.session, e) for e in self._rows("get_state", rows)]

    def set_state(
        self, states: Sequence[RowState], rows: Sequence[int] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Let some rows, or all, go on from where others were.

        Parameters
        ----------
        states : sequence of RowState
            One for each row: of rows of any number, or of single environments, made alike.
        rows : sequence of int or None, optional
            Which ones; None: all.

        Returns
        -------
        observations, infos
            Of all rows; infos of these ones.
        """
        chosen = self._rows("set_state", rows)
        if len(states) != len(chosen):
            raise ConfigurationError(
                f"set_state: {len(states)} states for {len(chosen)} rows; give one each"
            )
        which = np.isin(np.arange(self.num_envs), chosen)
        if not self._begun and not which.all():
            raise gymnasium.error.ResetNeeded("set_state: some rows have not begun; call reset()")
        for e, state in zip(chosen, states, strict=True):
            restore_row(self.session, e, state)
        self._begun = True
        buffers = self.session.buffers
        self._over[which] = (buffers.terminated | buffers.truncated)[which]
        return self._observe(), self._infos(which, ~self._every)

    def _rows(self, what: str, rows: Sequence[int] | None) -> list[int]:
        if rows is None:
            return list(range(self.num_envs))
        most = self.num_envs - 1
        return [check_whole(f"{what}: an entry of 'rows'", e, 0, most) for e in rows]

    def close_extras(self, **kwargs: Any) -> None:
        """End the threads that step rows."""
        self.session.close()

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions of all rows, bool [E, A]."""
        return self.session.masks().view(np.bool_)

    def _rows_to_reset(self, options: dict[str, Any]) -> NDArray[np.bool_]:
        if "reset_mask" not in options:
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

    def _seeds(self, seed: Any) -> list[int | None]:
        """A seed for each row."""
        if isinstance(seed, list | tuple) or (isinstance(seed, np.ndarray) and seed.ndim > 0):
            if len(seed) != self.num_envs:
                raise ConfigurationError(
                    f"reset: {len(seed)} seeds for {self.num_envs} rows; give one each"
                )
            return [seed_of(own) for own in seed]
        first = seed_of(seed)
        return [None if first is None else first + e for e in range(self.num_envs)]

    def _infos(self, which: NDArray[np.bool_], asked: NDArray[np.bool_]) -> dict[str, Any]:
        """Infos of the rows of ``which``; the others, and who was not ``asked``, have none."""
        session, buffers = self.session, self.session.buffers
        infos: dict[str, Any] = {
            "time_s": session.now_ms / 1000.0,
            "window": buffers.start_index.copy(),
            "illegal_actions": session.illegal_actions.copy(),
            "_time_s": which,
            "_window": which,
            "_illegal_actions": which,
        }
        if which is not self._every:
            which.flags.writeable = False
            for name in ("time_s", "window", "illegal_actions"):
                infos[name][~which] = 0
        if asked is self._every and np.count_nonzero(buffers.reason) == 0:
            infos["reason"], infos["_reason"] = self._all_ok, self._every
        elif asked.any():
            reasons = [REASONS[reason] for reason in buffers.reason.tolist()]
            infos["reason"], infos["_reason"] = np.array(reasons, dtype=object), asked
            infos["reason"][~asked] = None
        return infos

    def _add_metrics(self, infos: dict[str, Any], over: NDArray[np.bool_]) -> dict[str, Any]:
        """Add the metrics of the rows that are ``over``, laid out as Gymnasium does."""
        ended = np.flatnonzero(over)
        if len(ended) == 0:
            return infos
        found = [self.session.episode_metrics(int(e)) for e in ended]
        names = list(dict.fromkeys(name for each in found for name in each))
        table = np.zeros((len(names), self.num_envs))
        metrics: dict[str, Any] = dict(zip(names, table, strict=True))
        for k, name in enumerate(names):
            known = [name in each for each in found]
            table[k, ended] = [each.get(name, 0.0) for each in found]
            metrics[f"_{name}"] = over if all(known) else np.isin(self._numbers, ended[known])
        infos["episode_metrics"], infos["_episode_metrics"] = metrics, over
        return infos

    def _observe(self) -> Observation:
        if self._copy:
            return self.session.told()
        return self.session.shown()

    def _final_infos(self) -> dict[str, Any]:
        """Last observations of the rows that are over, as Gymnasium lays them out."""
        over = self._over.copy()
        final = np.full(self.num_envs, None, dtype=object)
        for e in np.flatnonzero(over):
            final[e] = self.session.told(int(e))
        return {
            "final_obs": final,
            "_final_obs": over,
            "final_info": self._add_metrics(self._infos(over, over), over),
            "_final_info": over.copy(),
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
