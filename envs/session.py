"""Rows of the engine, their buffers and their source of episodes: what every environment wraps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.checks import MOST_SEED, check_type, check_whole, flags, integers, seed_numbers
from envs.config import EnvConfig, Illegal
from envs.fitting import (
    check_arguments,
    check_incidents,
    check_services,
    check_starts,
    check_trace,
    part_starts,
)
from envs.outcomes import episode_metrics
from envs.own.parts import OwnParts
from envs.rows.buffers import (
    Observation,
    configure_view,
    make_bench,
    make_buffers,
    make_view,
    observed,
)
from envs.rows.crew import Crew
from envs.rows.source import (
    copy_arrays,
    copy_source,
    make_episode,
    make_prices,
    maxima_of,
)
from envs.scenario import (
    Scenario,
    Standing,
    Surroundings,
    accounts,
    check_heads,
    configure_scenario,
    playable,
    surroundings,
    with_accounts,
)
from envs.workloads.trace import Trace
from orchestrator.engine.copies import copy_state, restore_state
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.buffers import (
    Source,
)
from orchestrator.kernels.run.session import begin_rows, replay_rows, reset_rows, step_rows
from orchestrator.kernels.state.codes import Placement, Reason
from orchestrator.kernels.state.records import TABLES
from orchestrator.kernels.state.row import (
    ROW_DTYPE,
    ClusterShape,
    ClusterState,
    allocate,
    count_kinds,
    memo_kinds,
)
from orchestrator.scheduling.rules import Rule, rule_named

__all__ = [
    "Session",
    "check_arguments",
]

_OF_MEMORY = (
    *("bench", "beside", "_crew", "_shown", "_first", "own"),
    *("now_ms", "illegal_actions"),
)
"""Attributes that belong to the memory of a session's rows."""


class Session:
    """A batch of episodes over one trace.

    Parameters
    ----------
    trace : Trace
        Jobs and the cluster they run on.
    config : EnvConfig
    envs : int
        Rows.
    starts : int64 [M] or None
        First job of each window that episodes may play, or, without jobs, its first tick; None:
        those of ``part``.
    incidents : INCIDENT_DTYPE [I] or None
        Node failures and recoveries of every episode, times from its start.
    scenario : Scenario or None
        Failures drawn for each window, tenants, throughput curves, links, services, fleet.
    threads : int
        Threads that step the rows, each a range of them; they change the speed only.
    part : {"train", "validation", "test", "all"}
        Which part of the trace episodes are taken from; see :func:`envs.part_starts`. What is
        judged is judged on another part than what was trained on.
    """

    state: ClusterState

    def __init__(
        self,
        trace: Trace,
        config: EnvConfig,
        envs: int,
        starts: NDArray[np.int64] | None = None,
        incidents: NDArray[np.void] | None = None,
        scenario: Scenario | None = None,
        threads: int = 1,
        *,
        part: str = "train",
    ) -> None:
        threads = check_whole("environment: 'threads'", threads, 1)
        envs = check_whole("environment: 'envs'", envs, 1)
        scenario = Scenario() if scenario is None else scenario
        check_arguments(trace, config, scenario)
        config = replace(config.for_nodes(len(trace.nodes)), quota_mode=scenario.quota_mode)
        check_trace(trace, config)
        self.trace = trace
        self.config = config
        self.schema = config.schema
        total = playable(trace, config, scenario)
        if starts is None:
            starts = part_starts(trace, config, part, scenario=scenario)
        starts = integers("environment: 'starts'", starts)
        if incidents is not None:
            check_incidents(incidents, len(trace.nodes))
        check_starts(trace, config, starts, total)
        check_heads(scenario, config)
        check_services(trace, scenario.services, scenario.fleet)
        self.scenario = scenario  # rows hold the address of its series
        around = surroundings(scenario, trace, starts, config, incidents)
        standing = Standing.of(scenario.services, scenario.fleet, trace.nodes)
        self.source = Source(
            make_episode(trace, config, starts, around, standing),
            make_view(config, maxima_of(trace)),
            make_prices(config, len(starts)),
        )
        self.standing = len(standing.requests)
        shape = _shape(trace, config, envs, around, standing)
        self._allocate(shape)
        self.buffers = make_buffers(shape, config)
        self._threads = min(threads, envs)
        self.seeds = np.zeros(envs, np.uint64)
        self._prepare()
        self._any_window = np.full(envs, -1, np.int64)

    def __copy__(self) -> Session:
        """A session of its own that goes on exactly as this one would.

        The two share what nobody writes: the trace, the scenario, what episodes are made from.
        """
        other = object.__new__(type(self))
        other.__setstate__(self._kept(copy_state(self.state)))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """The same: nothing that is shared is written."""
        other = memo[id(self)] = self.__copy__()
        return other

    def __getstate__(self) -> dict[str, Any]:
        """All but threads and scratch; addresses mean nothing elsewhere."""
        kept = self._kept(self.state)
        tables = {name: getattr(self.state, name) for name in TABLES}
        kept["state"] = (self.state.shape, self.state.rows, tables)
        nothing = self.source.episode.trace[:0]  # the session's own trace has them all
        episode = self.source.episode._replace(trace=nothing)
        kept["source"] = self.source._replace(episode=episode)
        return kept

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """Go on with memory of its own."""
        self.__dict__.update(kept)
        if isinstance(self.state, tuple):
            self.state = restore_state(*self.state)
        configure_scenario(self.state, self.scenario)  # addresses of series among it
        self.source = copy_source(self.source, self.trace)
        self.buffers = copy_arrays(self.buffers)
        self.seeds, self._any_window = self.seeds.copy(), self._any_window.copy()
        self._prepare()

    def _kept(self, state: ClusterState) -> dict[str, Any]:
        """What a copy begins with."""
        kept = {**self.__dict__, "state": state}
        for name in _OF_MEMORY:
            del kept[name]
        return kept

    def _prepare(self) -> None:
        """Make scratch, and what belongs to the memory that the rows and buffers are in now."""
        shape = self.state.shape
        self.bench = make_bench(shape, self.config)
        helpers = [make_bench(shape, self.config) for _ in range(self._threads - 1)]
        self._crew = Crew(shape.envs, [self.bench, *helpers])
        reward = self.config.reward
        self.own = OwnParts(reward.own_terms, self.config.own_features, reward.form)
        self.own.watch(self.state, self.buffers)
        self._shown = observed(self.buffers, self.schema)
        self._first = observed(self.buffers, self.schema, 0)
        beside = [part for part in self.buffers if isinstance(part, np.ndarray)]
        found = [(part.ctypes.data, part.strides[0]) for part in (*beside, self.seeds)]
        self.beside: NDArray[np.int64] = np.array(found, np.int64)
        self.now_ms: NDArray[np.int64] = self.state.rows["now_ms"]
        self.illegal_actions: NDArray[np.int64] = self.state.rows["illegal_actions"]

    @property
    def envs(self) -> int:
        """Number of rows."""
        return self.state.shape.envs

    @cached_property
    def origin(self) -> Mapping[str, str]:
        """Digests of what rows are made of, by what they are of: whose states they can take."""
        episode, mix = self.source.episode, self.scenario.services
        parts = [np.asarray(p) for name, p in episode._asdict().items() if name != "trace"]
        if mix is not None:
            parts += [mix.series.rates, np.asarray(mix.forecast)]
        shape = replace(self.state.shape, envs=1, kinds=0)
        return {
            "trace": self.trace.content_digest,
            "config": _digest(repr(self.config).encode()),
            "surroundings or windows": _digest(*map(_said, parts)),
            "format": _digest(repr((shape, ROW_DTYPE, TABLES)).encode()),
        }

    def episode_metrics(self, e: int) -> dict[str, float]:
        """What became of row ``e``'s episode; see :func:`envs.outcomes.episode_metrics`."""
        values = episode_metrics(self.state, e, self.source.prices.weights)
        values["objective"] += self.own.cost(e)
        return values

    def reset(
        self,
        which: NDArray[np.bool_] | None = None,
        windows: NDArray[np.int64] | None = None,
    ) -> None:
        """Begin an episode in the rows of ``which`` (None: all).

        Parameters
        ----------
        which : bool [E] or None
        windows : int64 [E] or None
            Index into ``source.episode.starts`` of the window to play; -1 or None: by the sampling.
        """
        if which is None:
            which = np.ones(self.envs, np.bool_)
        which = flags("reset: 'which'", which)
        _check_shape("reset: 'which'", which, self.envs)
        if windows is None:
            windows = self._any_window
        windows = _windows(windows, -1, self)
        reset_rows(
            self.state.rows, which, self.seeds, windows, self.source, self.buffers, self.bench
        )
        self.own.describe()

    def reseed(self, seeds: NDArray[np.uint64]) -> None:
        """Give each row a new seed and start its sequence of episodes over."""
        self.seeds[:] = seed_numbers("reseed: 'seeds'", seeds, self.envs)
        self.buffers.episode[:] = 0

    def reseed_row(self, e: int, seed: int) -> None:
        """Do the same for one row."""
        self.seeds[e] = check_whole("reseed: 'seed'", seed, 0, MOST_SEED)
        self.buffers.episode[e] = 0

    def step(self, actions: NDArray[np.int64]) -> None:
        """Step all rows; the results are in ``buffers``.

        A row that has been refused its ``illegal_limit``-th action of an episode is truncated.
        Where the config says ``raise``, nothing is raised here: see :meth:`require_legal`.
        """
        if type(actions) is not np.ndarray or actions.dtype != np.int64 or not actions.flags.carray:
            actions = integers("step: 'actions'", actions)
        _check_shape("step: 'actions'", actions, self.envs)
        self.advance(actions)

    def advance(self, actions: NDArray[np.int64]) -> None:
        """:meth:`step`, by actions that are known to be an array of the right type and shape."""
        if self.config.illegal == Illegal.FALLBACK:
            self._advance_legally(actions)
        else:
            self._crew.step(self.state.rows, actions, self.source, self.buffers)
            if np.count_nonzero(self.buffers.reason) > 0:
                self._refuse(actions)
        if self.own:
            self.own.pay()
            self.own.describe()

    def _refuse(self, actions: NDArray[np.int64]) -> None:
        """What becomes of rows whose actions have just been refused."""
        if self.config.illegal_limit > 0:
            self._end_stalled(actions)
        if self.config.illegal == Illegal.PENALTY:
            refused = (self.buffers.reason != Reason.OK) & (self.state.rows["done"] == 0)
            self.buffers.reward[refused] -= self.config.illegal_penalty

    def _advance_legally(self, actions: NDArray[np.int64]) -> None:
        """Step by other actions where the given ones are not legal, which still are counted."""
        buffers, size = self.buffers, self.schema.actions.size
        known = (actions >= 0) & (actions < size)
        legal = buffers.mask[np.arange(self.envs), np.where(known, actions, 0)] != 0
        wrong = np.flatnonzero(~(known & legal) & (self.state.rows["done"] == 0))
        reasons = np.zeros(len(wrong), np.int32)
        if len(wrong) > 0:
            taken = actions.copy()
            for k, e in enumerate(wrong):
                self._try(int(e), actions, 0)
                reasons[k] = buffers.reason[e]
                advised = buffers.advised[e]
                taken[e] = advised if advised >= 0 else buffers.mask[e].argmax()
            actions = taken
        self._crew.step(self.state.rows, actions, self.source, buffers)
        buffers.reason[wrong] = reasons

    def _try(self, e: int, actions: NDArray[np.int64], limit: int) -> None:
        """Step a row by an illegal action, which counts as no step, under a limit of steps."""
        rows, buffers = self.state.rows, self.buffers
        usual, steps = rows["step_limit"][e], buffers.steps[e]
        rows["step_limit"][e] = limit
        step_rows(rows, e, e + 1, actions, self.source, buffers, self.bench)
        rows["step_limit"][e], buffers.steps[e] = usual, steps

    def _end_stalled(self, actions: NDArray[np.int64]) -> None:
        """Truncate rows that were refused too many actions, as their limit of steps would."""
        rows, buffers = self.state.rows, self.buffers
        many = self.illegal_actions >= self.config.illegal_limit
        if np.count_nonzero(many) == 0:
            return
        refused = (buffers.reason != Reason.OK) & (rows["done"] == 0) & ~buffers.truncated
        for e in np.flatnonzero(refused & many):
            # The same action once more, as the last that is allowed; it is counted once.
            illegal = rows["illegal_actions"][e]
            self._try(int(e), actions, 1)
            rows["illegal_actions"][e] = illegal

    def masks(self, e: int | slice = slice(None)) -> NDArray[np.int8]:
        """Legal actions of a row, or of all, for who draws from them; not to be written.

        At the end nothing is legal any more, and nothing that is done there matters: the masks of
        rows that are over allow waiting, where that exists, or else the first action.
        """
        mask = self.buffers.mask[e]
        if self._any_over(e):
            mask = mask.copy()
            self._allow_one(mask, e)
        return mask

    def _any_over(self, e: int | slice) -> bool:
        """Whether a row, or one of several, is at its end."""
        over = self.buffers.terminated[e]
        return bool(over) if over.ndim == 0 else bool(np.count_nonzero(over))

    def _allow_one(self, mask: NDArray[np.int8], e: int | slice) -> None:
        """Make one action legal in those rows of a mask that are over."""
        actions = self.schema.actions
        mask[..., actions.size - 1 if actions.can_wait else 0] |= self.buffers.terminated[e]

    def replay(self, rule: Rule | str, windows: NDArray[np.int64] | None = None) -> None:
        """Play window ``windows[e]`` (None: window e) to its end in each row, under a rule.

        A rule that reads tenants' accounts (``drf``, ``reclaim``) finds some: the scenario's or, if
        that describes no tenants, equal ones for the trace's.
        """
        rule = self._playable(rule)
        if windows is None:
            windows = np.arange(self.envs, dtype=np.int64)
        windows = _windows(windows, 0, self)
        episode = self.source.episode
        if rule.reads_accounts and len(episode.tenants) == 0:
            informed = with_accounts(self.scenario, self.trace)
            episode = episode._replace(tenants=accounts(informed, self.trace))
            self._make_room(tenants=max(len(episode.tenants), self.state.shape.tenants))
        self._show_nothing(windows)
        replay_rows(self.state.rows, 0, self.envs, windows, rule.to_record(), episode, self.bench)

    def roll_out(self, e: int, rule: Rule | str) -> float:
        """Play row ``e`` from where it is to the end of its episode under a rule.

        Returns
        -------
        float
            The rewards on the way, added up. No limit of steps holds.
        """
        rule = self._playable(rule)
        if rule.reads_accounts and self.state.rows["num_tenants"][e] == 0:
            raise ConfigurationError(
                f"rule '{rule.name}' reads tenants' accounts, and this environment keeps none; "
                f"give it a scenario with 'tenants'"
            )
        rows, buffers, weights = self.state.rows, self.buffers, self.source.prices.weights
        buffers.reason[e], buffers.truncated[e] = Reason.OK, False
        entry.replay(rows, e, rule.to_record(), self.bench.nodes, self.bench.jobs)
        costs = np.empty(len(weights))
        entry.read_metrics(rows, e, costs)
        noted = buffers.metrics[e, : len(weights)]
        grown = np.where(weights != 0.0, weights * (costs - noted), 0.0).sum()
        noted[:] = np.where(weights != 0.0, costs, 0.0)
        buffers.reward[e] = -grown * buffers.scale[e]
        buffers.terminated[e] = True
        entry.describe(rows, e, self.source.seen, buffers, self.bench)
        if self.own:
            self.own.pay(slice(e, e + 1))
            self.own.describe(slice(e, e + 1))
        return float(buffers.reward[e])

    def _playable(self, rule: Rule | str) -> Rule:
        """A rule, if rows know all that it reads but accounts."""
        rule = rule_named(rule) if isinstance(rule, str) else rule
        check_type("'rule'", rule, Rule, "a Rule, or the name of one")
        if rule.placement == Placement.FGD and len(self.source.episode.typical) == 0:
            raise ConfigurationError(
                f"rule '{rule.name}' measures fragmentation, and this environment does not: name "
                f"'fgd' among its 'placements'"
            )
        return rule

    def keep_effects(self, effects: int) -> None:
        """Let rows that are about to begin anew keep the last ``effects`` things done to jobs.

        :class:`orchestrator.scheduling.runs.RunReader` makes runs of them. By default none is kept.
        """
        effects = check_whole("keep_effects: 'effects'", effects, 0)
        self._make_room(effects=max(effects, self.state.shape.effects))

    def keep_log(self, records: int) -> None:
        """Let rows that are about to begin anew keep the last ``records`` of their event logs.

        :class:`orchestrator.scheduling.log.LogReader` reads them. By default none is kept.
        """
        records = check_whole("keep_log: 'records'", records, 0)
        self._make_room(log=max(records, self.state.shape.log))

    def _make_room(self, **sizes: int) -> None:
        """Let rows that are about to begin anew have room for more."""
        shape = replace(self.state.shape, **sizes)
        if shape != self.state.shape:
            self.close()
            self._allocate(shape)
            self._prepare()
            self.__dict__.pop("origin", None)

    def _allocate(self, shape: ClusterShape) -> None:
        """Make the rows, which know the rules and their surroundings, and nothing of an episode."""
        self.state = allocate(shape)
        self.state.rows["keep_log"] = shape.log > 0
        self.config.write(self.state.rows)
        configure_view(self.state, self.config)
        _configure_episode(self.state, self.config)
        configure_scenario(self.state, self.scenario)

    def close(self) -> None:
        """End the threads that step rows."""
        self._crew.close()

    def begin(self, windows: NDArray[np.int64]) -> None:
        """Begin window ``windows[e]`` in each row as :meth:`replay` does, and play nothing of it.

        The rows are then for :func:`orchestrator.scheduling.rollout.rollout`.
        """
        windows = _windows(windows, 0, self)
        self._show_nothing(windows)
        begin_rows(self.state.rows, 0, self.envs, windows, self.source.episode)

    def _show_nothing(self, windows: NDArray[np.int64]) -> None:
        """Note which windows rows are about to play without being shown: own terms are told so."""
        buffers = self.buffers
        buffers.start_index[:] = windows
        if self.own:
            buffers.shown[...] = 0
            # An encoding blanks no more than what was shown before it, so that all goes at once.
            for part in (buffers.queue, buffers.candidates, buffers.victims, buffers.elastics):
                part[...] = 0.0
            buffers.sizes[...] = 0.0
            buffers.mask[...] = 0

    def require_legal(self) -> None:
        """Raise if the last step's action was refused in any row."""
        refused = np.flatnonzero(self.buffers.reason != Reason.OK)
        if len(refused) > 0:
            e = int(refused[0])
            reason = Reason(int(self.buffers.reason[e])).name.lower()
            raise IllegalActionError(
                f"row {e}: the action was refused ({reason}); choose one that action_mask allows"
            )

    def observation(self, e: int | slice = slice(None)) -> Observation:
        """The observation of a row, or of all: views into the buffers, not copies."""
        return {name: part[e] for name, part in self._shown.items()}

    def told(self, e: int | slice = slice(None)) -> Observation:
        """The same as copies, for agents: with a mask that allows something at the end, too."""
        if e == 0:  # single environments have no other row
            seen = {name: part.copy() for name, part in self._first.items()}
        else:
            seen = {name: part[e].copy() for name, part in self._shown.items()}
        if self._any_over(e):
            self._allow_one(seen["action_mask"], e)
        return seen

    def shown(self) -> Observation:
        """The same of all rows, as views where that is possible: not to be written."""
        seen = self._shown.copy()
        if self._any_over(slice(None)):
            seen["action_mask"] = self.masks()
        return seen

    def window_jobs(self, e: int) -> NDArray[np.int64]:
        """Trace indices of the jobs of a row's episode."""
        start = int(self.source.episode.starts[self.buffers.start_index[e]])
        return np.arange(start, start + self.config.episode_jobs, dtype=np.int64)


def _shape(
    trace: Trace, config: EnvConfig, envs: int, around: Surroundings, standing: Standing
) -> ClusterShape:
    """What rows must have room for."""
    services, nodes = len(standing.requests), len(around.nodes)
    kinds = count_kinds(trace.requests) + services
    return ClusterShape(
        envs=envs,
        jobs=max(config.episode_jobs + services, 1),
        workers=max(_most_workers(trace), int(standing.requests["max_workers"].max(initial=1))),
        nodes=nodes,
        devices=max(node.gpus for node in trace.nodes),
        incidents=around.most_incidents,
        tenants=max(len(around.tenants), 1),
        curves=max(len(around.curves), 1),
        uplinks=max(len(around.uplinks), 1),
        typical=len(around.typical),
        services=max(services, 1),
        kinds=memo_kinds(nodes, envs, kinds, often=not config.commitment),
    )


def _said(array: NDArray[Any]) -> bytes:
    """The values of an array, of records field by field: what is between them is nothing."""
    names = array.dtype.names
    return b"".join(array[name].tobytes() for name in names) if names else array.tobytes()


def _digest(*parts: bytes) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _check_shape(what: str, values: NDArray[Any], rows: int) -> None:
    if values.shape != (rows,):
        raise ConfigurationError(
            f"{what} has shape {values.shape}; give one for each of {rows} rows"
        )


def _windows(given: Any, least: int, session: Session) -> NDArray[np.int64]:
    """Windows of all rows, as kernels take them."""
    windows = integers("'windows'", given)
    _check_shape("'windows'", windows, session.envs)
    known = len(session.source.episode.starts)
    wrong = windows[(windows < least) | (windows >= known)]
    if len(wrong) > 0:
        raise ConfigurationError(f"window {wrong[0]} of {known}; give an index below {known}")
    return windows


def _configure_episode(state: ClusterState, config: EnvConfig) -> None:
    """Say in all rows of a state how episodes go on by themselves."""
    rows = state.rows
    rows["skip_forced"] = config.skip_forced
    rows["turn_away"] = config.turn_away
    rows["step_limit"] = config.most_steps
    rows["autoscale"] = config.autoscale


def _most_workers(trace: Trace) -> int:
    """Most workers that any job of a trace may have."""
    elastic = trace.requests["elastic"] != 0
    grown = trace.requests["max_workers"][elastic].max(initial=1)
    gpus = sum(node.gpus for node in trace.nodes)
    cores = sum(node.cpu_cores for node in trace.nodes)
    # Nobody has more workers than there are GPUs or cores: a lavish maximum costs no memory.
    return int(max(trace.requests["workers"].max(), min(int(grown), max(gpus, cores, 1))))
