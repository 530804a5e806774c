"""Clusters as Gymnasium environments: one at a time, or many in one compiled call per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.checks import (
    MOST_WINDOW,
    action_number,
    check_flag,
    check_type,
    check_whole,
    integers,
    seed_of,
)
from envs.config import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig
from envs.fitting import check_arguments, check_part
from envs.render import describe_decision, draw_occupancy, kept_effects
from envs.scenario import FleetPlan, Scenario, ServiceMix, seasonal_rates
from envs.session import Session
from envs.workloads import Trace, gpu_cluster, gpu_pods, lublin_feitelson
from envs.workloads.services.generator import generate_services
from orchestrator.errors import ConfigurationError, IllegalActionError, UnknownOptionError
from orchestrator.kernels.state.codes import Reason
from orchestrator.mesh.specs import ServiceSpec

__all__ = [
    "SchedulingEnv",
    "SchedulingVectorEnv",
    "action_space",
    "autoscaling_env",
    "autoscaling_vector_env",
    "cluster_env",
    "cluster_vector_env",
    "default_scenario",
    "default_trace",
    "job_ordering_env",
    "job_ordering_vector_env",
    "make_session",
    "observation_space",
    "override",
    "placement_env",
    "placement_vector_env",
    "row_seeds",
]

Observation = dict[str, NDArray[Any]]

# What environments are made of when nothing is given.
_JOBS = 20_000
_SEED = 1
_SERVICES = 4
_NODES = 4
_DAY = 1440  # ticks
_DAYS = 30
_AHEAD = 3  # ticks: a replica is up one after it was asked for, and serves in the next
_USUAL_REPLICAS = 6
_TARGET = 0.7

_UNBOUNDED = -1  # what Gymnasium calls it


def _box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def observation_space(config: EnvConfig) -> spaces.Dict:
    """Sets of fixed capacity, padded with zeros, and the mask of legal actions.

    ``queue`` [Q, F], ``global`` [G], ``action_mask`` [A]; with chosen placements also
    ``candidates`` [Q * K, C], with preemption ``victims`` [V, F_v], with resizing ``elastics``
    [E, F_e] and, where sizes are chosen, ``sizes`` [E * Z, F_z], with services ``services``
    [S, F_s], with a changing fleet ``capacity`` [2 c, F_c], ``tenants`` [T, F_t] and ``racks``
    [R, F_r] where they are shown, with advice ``advice`` [A].
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
    if schema.sizes:
        parts["sizes"] = _box(layout.elastics * layout.sizes, len(schema.sizes))
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


def default_trace(config: EnvConfig) -> Trace:
    """The embedded workload.

    Lublin-Feitelson for job ordering, pods of a GPU-sharing cluster where nodes are chosen, a GPU
    cluster otherwise. Of an environment without jobs it is the cluster: four nodes of eight GPUs.
    """
    if config.commitment:
        return lublin_feitelson(_JOBS, _SEED)
    if config.episode_jobs == 0:
        return gpu_cluster(2, _SEED, nodes=_NODES)
    if config.choose_node:
        return gpu_pods(_JOBS, _SEED)
    return gpu_cluster(_JOBS, _SEED)


def default_scenario(config: EnvConfig, trace: Trace) -> Scenario:
    """Services with a daily rhythm on a fleet that may double; nothing, if there are no services.

    Thirty days of ticks of a minute. A replica takes one GPU and is so fast that a service needs
    six of them at its mean rate: 3 to 10 in the course of a day, and more in a burst. The forecast
    is yesterday's demand at the same time.
    """
    if config.services == 0 and config.episode_jobs > 0:
        return Scenario()
    series = generate_services(config.services or _SERVICES, _DAYS * _DAY, _SEED)
    usual = series.rates.mean(axis=1, dtype=np.float64)
    specs = tuple(
        ServiceSpec(
            name,
            service_ms=1000.0 * _USUAL_REPLICAS * _TARGET / float(rate),
            replicas=_USUAL_REPLICAS,
            max_replicas=16,
        )
        for name, rate in zip(series.names, usual, strict=True)
    )
    forecast = seasonal_rates(series, period=_DAY, ahead=_AHEAD)
    services = ServiceMix(specs, series, target_utilisation=_TARGET, forecast=forecast)
    return Scenario(services=services, fleet=FleetPlan(spare=len(trace.nodes)))


def row_seeds(seed: int | None, envs: int) -> NDArray[np.uint64]:
    """Seeds of all rows from one; None: from the operating system."""
    return np.random.SeedSequence(seed_of(seed)).generate_state(envs, np.uint64).astype(np.uint64)


def override(base: EnvConfig, changes: Mapping[str, Any]) -> EnvConfig:
    """An environment's config with some of its fields changed.

    Parameters
    ----------
    base : EnvConfig
    changes : mapping of str to Any
        By field; Gymnasium's ``max_episode_steps`` is a bound of ``step_limit``, None or -1: none.

    Raises
    ------
    UnknownOptionError
        A ``TypeError``, as for any function, if one of them is no field.
    """
    check_type("environment: 'base'", base, EnvConfig, "an EnvConfig, for example CLUSTER")
    given = dict(changes)
    most = given.pop("max_episode_steps", None)
    known = [field.name for field in fields(EnvConfig)]
    for name in given:
        if name not in known:
            raise UnknownOptionError(
                f"environment: got an unexpected keyword argument '{name}': unknown option "
                f"'{name}'; known: {', '.join(known)}"
            )
    config = replace(base, **given)
    if most is None or most == _UNBOUNDED:
        return config
    most = check_whole("environment: 'max_episode_steps'", most, 1)
    return replace(config, step_limit=min(most, config.step_limit or most))


def make_session(
    config: EnvConfig,
    envs: int,
    trace: Trace | None,
    windows: NDArray[np.int64] | str,
    incidents: NDArray[np.void] | None = None,
    scenario: Scenario | None = None,
    threads: int = 1,
) -> Session:
    """Make the session of an environment: ``windows`` are starts, or a part of the trace by name.

    See :class:`SchedulingEnv` for the others.
    """
    if trace is None:
        trace = default_trace(config)
    check_arguments(trace, config, scenario)
    if scenario is None:
        scenario = default_scenario(config, trace)
    starts, part = (None, windows) if isinstance(windows, str) else (windows, "all")
    return Session(trace, config, envs, starts, incidents, scenario, threads, part=part)


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
        :func:`default_scenario`.
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

    def __copy__(self) -> SchedulingEnv:
        """A copy that goes on by itself: a shared session would step both."""
        return deepcopy(self)

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
        modes: list[Any] = [None, *self.metadata["render_modes"]]
        if not isinstance(render_mode, str | None) or render_mode not in modes:
            raise ConfigurationError(f"unknown render_mode {render_mode!r}; use one of {modes}")
        check_flag("environment: 'strict'", strict)
        windows = check_part(part) if starts is None else starts
        config = override(base, overrides)
        self.session = make_session(config, 1, trace, windows, incidents, scenario)
        if render_mode == "rgb_array":
            self.session.keep_effects(kept_effects(self.session.state.shape.jobs))
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
        seed, options = seed_of(seed), _options(options)
        window = check_whole("reset: 'window'", options.get("window", -1), -1, MOST_WINDOW)
        super().reset(seed=seed)
        if seed is not None or not self._begun:
            self.session.reseed(row_seeds(seed, 1))
        self._window[0] = window
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
        self._actions[0] = action_number(action)
        self.session.advance(self._actions)
        buffers = self.session.buffers
        if self._strict and buffers.reason[0] != Reason.OK:
            reason = Reason(int(buffers.reason[0])).name.lower()
            what = self.config.schema.actions.describe(int(self._actions[0]))
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
        mask: NDArray[np.bool_] = self.session.masks(0).astype(np.bool_)
        return mask

    def render(self) -> str | NDArray[np.uint8] | None:
        """The decision point in words, or the occupancy of the cluster over time as a picture."""
        if self.render_mode == "ansi":
            return describe_decision(self.session, 0)
        if self.render_mode == "rgb_array":
            return draw_occupancy(self.session, 0)
        return None

    def _observe(self) -> Observation:
        return self.session.told(0)

    def _info(self) -> dict[str, Any]:
        session = self.session
        return {
            "time_s": float(session.now_ms[0]) / 1000.0,
            "window": int(session.buffers.start_index[0]),
            "illegal_actions": int(session.illegal_actions[0]),
        }


_REASONS = [reason.name.lower() for reason in Reason]


def _autoreset_mode(mode: Any) -> AutoresetMode:
    """One of Gymnasium's, by name, too."""
    known = [each.value for each in AutoresetMode]
    if not isinstance(mode, AutoresetMode) and mode not in known:
        raise ConfigurationError(f"environment: 'autoreset_mode' is {mode!r}; use one of {known}")
    return AutoresetMode(mode)


def _options(options: Any) -> dict[str, Any]:
    """What a reset was asked for besides a seed."""
    if options is None:
        return {}
    check_type("reset: 'options'", options, Mapping, "a dict, for example {'window': 0}")
    return dict(options)


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
        check_flag("environment: 'copy'", copy)
        check_flag("environment: 'strict'", strict)
        num_envs = check_whole("environment: 'num_envs'", num_envs, 1)
        windows = check_part(part) if starts is None else starts
        config = override(base, overrides)
        self.session = make_session(config, num_envs, trace, windows, incidents, scenario, threads)
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
        self._strict = strict
        self._over = np.zeros(num_envs, np.bool_)
        self._begun = False
        # What most infos hold: shared by all of them, so nobody may write it.
        self._every = np.ones(num_envs, np.bool_)
        self._all_ok = np.full(num_envs, _REASONS[Reason.OK], dtype=object)
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
        options = _options(options)
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
        if self._strict:
            session.require_legal()
        reward = buffers.reward.copy()
        terminated, truncated = buffers.terminated.copy(), buffers.truncated.copy()
        np.logical_or(terminated, truncated, out=self._over)
        final: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            final, asked = self._final_infos(), ~self._over
            session.reset(self._over)
        infos = self._infos(self._every, asked)
        infos.update(final)
        return self._observe(), reward, terminated, truncated, infos

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
            reasons = [_REASONS[reason] for reason in buffers.reason.tolist()]
            infos["reason"], infos["_reason"] = np.array(reasons, dtype=object), asked
            infos["reason"][~asked] = None
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
            "final_info": self._infos(over, over),
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
