"""A cluster as a Gymnasium environment: one decision at a time."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.checks import MOST_WINDOW, action_number, check_type, check_whole, seed_of
from envs.config import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig, Illegal
from envs.gym.making import action_space, observation_space, row_seeds, session_of
from envs.gym.render import describe_decision, draw_occupancy, kept_effects
from envs.gym.states import RowState, restore_row, save_row
from envs.scenario import Scenario
from envs.viewing.episode import EpisodeReader
from envs.viewing.page import episode_page
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels.state.codes import Reason
from orchestrator.scheduling.rules import Rule

__all__ = [
    "REASONS",
    "SchedulingEnv",
    "autoscaling_env",
    "cluster_env",
    "job_ordering_env",
    "placement_env",
    "reset_options",
]

Observation = dict[str, NDArray[Any]]

REASONS = [reason.name.lower() for reason in Reason]
"""What infos say of actions, by ``Reason``."""


def reset_options(options: Any) -> dict[str, Any]:
    """What a reset was asked for besides a seed."""
    if options is None:
        return {}
    check_type("reset: 'options'", options, Mapping, "a dict, for example {'window': 0}")
    return dict(options)


class SchedulingEnv(gymnasium.Env[Any, Any]):
    """A cluster whose scheduling decisions are the agent's.

    Parameters
    ----------
    base : EnvConfig
        The environment that the overrides change.
    workload : str, mapping or None
        Workload and cluster by name, with options, or by a file's path: ``"lublin"``,
        ``{"name": "gpu_cluster", "jobs": 5000, "load": 1.1}``; see
        :func:`envs.gym.making.make_trace`. None: the embedded generator.
    nodes : int, mapping, sequence of mapping or None
        The cluster instead of the workload's own: how many nodes, or fields of ``NodeSpec``.
    trace : Trace or None
        Workload and cluster as they are, instead of ``workload``.
    part : {"train", "validation", "test", "all"}
        Which part of the trace episodes are taken from.
    starts : int64 [M] or None
        The windows themselves, as first jobs; replaces ``part``.
    incidents : INCIDENT_DTYPE [I] or None
        Node failures and recoveries, times from the start of the episode.
    scenario : Scenario, str or None
        What surrounds the jobs, or the name of one's own (:func:`envs.scenario.scenario_named`);
        None: nothing or, where the environment has services, those of :func:`default_scenario`.
    render_mode : {"ansi", "rgb_array", "html"} or None
        Words of the decision point; a picture of the occupancy; or a page that plays the episode so
        far, whole in one text (:func:`envs.viewing.page.episode_page`).
    **overrides
        Fields of ``EnvConfig``, enumerations by name: ``reward={"wait": 1.0}``,
        ``information="oracle"``, ``illegal="penalty"``. Where all that is given is plain,
        ``spec.to_json()`` describes the environment whole.

    Notes
    -----
    ``reset`` takes ``options={"window": i}`` to play a certain window. ``info`` holds ``time_s``,
    ``window``, ``illegal_actions`` and, after a step, ``reason`` ("ok" or why it was refused); in
    the end also ``episode_metrics``: see :func:`envs.outcomes.episode_metrics`.
    """

    # Gymnasium declares it as an attribute of each environment, and reads it off the class.
    metadata = {"render_modes": ["ansi", "rgb_array", "html"], "render_fps": 4}  # noqa: RUF012

    def __copy__(self) -> SchedulingEnv:
        """A copy that goes on by itself: a shared session would step both."""
        return deepcopy(self)

    def __init__(
        self,
        base: EnvConfig,
        *,
        workload: Any = None,
        nodes: Any = None,
        trace: Trace | None = None,
        part: str = "train",
        starts: NDArray[np.int64] | None = None,
        incidents: NDArray[np.void] | None = None,
        scenario: Scenario | str | None = None,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        modes: list[Any] = [None, *self.metadata["render_modes"]]
        if not isinstance(render_mode, str | None) or render_mode not in modes:
            raise ConfigurationError(f"unknown render_mode {render_mode!r}; use one of {modes}")
        given = {"part": part, "starts": starts, "incidents": incidents, "scenario": scenario}
        given.update(overrides)
        self.session = session_of(base, 1, given, trace=trace, workload=workload, nodes=nodes)
        if render_mode == "rgb_array":
            self.session.keep_effects(kept_effects(self.session.state.shape.jobs))
        self._reader = EpisodeReader(self.session) if render_mode == "html" else None
        self.config = self.session.config
        self.observation_space = observation_space(self.config)
        self.action_space = action_space(self.config)
        self.render_mode = render_mode
        self._raises = self.config.illegal == Illegal.RAISE
        self._actions = np.zeros(1, np.int64)
        self._window = np.zeros(1, np.int64)
        self._begun = False
        self._over = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; a seed starts the sequence of episodes over."""
        seed, options = seed_of(seed), reset_options(options)
        window = check_whole("reset: 'window'", options.get("window", -1), -1, MOST_WINDOW)
        super().reset(seed=seed)
        if seed is not None or not self._begun:
            self.session.reseed(row_seeds(seed, 1))
        self._window[0] = window
        self.session.reset(windows=self._window)
        if self._reader is not None:
            self._reader.forget()
        self._begun = True
        self._over = bool(self.session.buffers.terminated[0])
        return self._observe(), self._info()

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out an action and advance to the next decision."""
        self._require_begun("step()")
        if self._over:
            raise gymnasium.error.ResetNeeded(
                "step() after the end of the episode: call reset() to begin another"
            )
        self._actions[0] = action_number(action)
        self.session.advance(self._actions)
        if self._reader is not None:
            self._reader.keep_up()
        buffers = self.session.buffers
        terminated, truncated = bool(buffers.terminated[0]), bool(buffers.truncated[0])
        self._over = terminated or truncated
        if self._raises and buffers.reason[0] != Reason.OK:
            reason = REASONS[buffers.reason[0]]
            what = self.config.schema.actions.describe(int(self._actions[0]))
            raise IllegalActionError(
                f"illegal action {action} ({what}): {reason}; choose one that action_mask allows"
            )
        info = self._info()
        info["reason"] = REASONS[buffers.reason[0]]
        if self._over:
            info["episode_metrics"] = self.session.episode_metrics(0)
        return self._observe(), float(buffers.reward[0]), terminated, truncated, info

    def copy(self) -> SchedulingEnv:
        """An environment of its own that goes on exactly as this one would.

        It shares what nobody writes: trace, scenario, what episodes are made from. Searches that
        try many actions keep one copy, and set its state again and again.
        """
        return deepcopy(self)

    def get_state(self) -> RowState:
        """All that what comes next depends on: of the episode, and of those that follow.

        It can be kept, pickled and given to :meth:`set_state` of any environment made alike. It
        holds the future, arrivals and true run times, as the environment does: whoever plans on it
        knows more than a policy may. What a wrapper counts is not in it, as ``TimeLimit``
        does where ``gymnasium.make`` was given ``max_episode_steps``: give ``step_limit``.
        """
        self._require_begun("get_state()")
        return save_row(self.session, 0)

    def set_state(self, state: RowState) -> tuple[Observation, dict[str, Any]]:
        """Go on from where an environment like this one was.

        Parameters
        ----------
        state : RowState
            From :meth:`get_state`, or of a row of a vector environment.

        Returns
        -------
        observation, info
            Those of that decision, as :meth:`reset` returns them.

        Raises
        ------
        ConfigurationError
            If it is of an environment with another workload, config or scenario.
        """
        restore_row(self.session, 0, state)
        if self._reader is not None:
            self._reader.forget()  # the rings are those of the state
        buffers = self.session.buffers
        self._begun = True
        self._over = bool(buffers.terminated[0] or buffers.truncated[0])
        return self._observe(), self._info()

    def roll_out(self, rule: Rule | str) -> float:
        """Play on to the end of the episode under a rule, in one compiled call.

        Parameters
        ----------
        rule : Rule or str
            For example ``"sjf"``.

        Returns
        -------
        float
            The sum of the rewards from here on.
        """
        self._require_begun("roll_out()")
        if self._over:
            return 0.0
        rewards = self.session.roll_out(0, rule)
        self._over = True
        return rewards

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions, as sb3-contrib asks for them."""
        mask: NDArray[np.bool_] = self.session.masks(0).astype(np.bool_)
        return mask

    def render(self) -> str | NDArray[np.uint8] | None:
        """The decision point in words, the occupancy over time as a picture, or the page of it."""
        if self._reader is not None:
            window = int(self.session.buffers.start_index[0])
            title = f"{self.session.trace.name}, window {window}"
            return episode_page([self._reader.read("so far", title)])
        if self.render_mode == "ansi":
            return describe_decision(self.session, 0)
        if self.render_mode == "rgb_array":
            return draw_occupancy(self.session, 0)
        return None

    def _require_begun(self, what: str) -> None:
        if not self._begun:
            raise gymnasium.error.ResetNeeded(f"{what} before reset(): call reset() first")

    def _observe(self) -> Observation:
        return self.session.told(0)

    def _info(self) -> dict[str, Any]:
        session = self.session
        return {
            "time_s": float(session.now_ms[0]) / 1000.0,
            "window": int(session.buffers.start_index[0]),
            "illegal_actions": int(session.illegal_actions[0]),
        }


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
