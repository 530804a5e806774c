"""Rows of the engine, their buffers and their source of episodes: what every environment wraps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.buffers import configure_view, make_bench, make_buffers, observed
from envs.checks import (
    check_incidents,
    check_services,
    check_starts,
    check_threads,
    check_trace,
)
from envs.config import EnvConfig
from envs.crew import Crew
from envs.fitting import most_workers
from envs.scaling import Standing
from envs.scenario import (
    Scenario,
    Surroundings,
    check_heads,
    configure_scenario,
    playable,
    surroundings,
)
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels import session as kernels
from orchestrator.kernels.codes import Placement, Reason
from orchestrator.kernels.packing_state import count_kinds, memo_kinds
from orchestrator.kernels.state import ClusterShape, ClusterState, allocate
from orchestrator.scheduler.rules import Rule, rule_named

__all__ = ["Session"]

Observation = dict[str, NDArray[Any]]


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
        every one of ``episode_jobs`` consecutive jobs, or of ``episode_ticks`` ticks.
    incidents : INCIDENT_DTYPE [I] or None
        Node failures and recoveries of every episode, times from its start.
    scenario : Scenario or None
        Failures drawn for each window, tenants, throughput curves, links, services, fleet.
    threads : int
        Threads that step the rows, each a range of them; they change the speed only.
    """

    def __init__(
        self,
        trace: Trace,
        config: EnvConfig,
        envs: int,
        starts: NDArray[np.int64] | None = None,
        incidents: NDArray[np.void] | None = None,
        scenario: Scenario | None = None,
        threads: int = 1,
    ) -> None:
        check_threads(threads)
        config = config.for_nodes(len(trace.nodes))
        check_trace(trace, config)
        scenario = scenario or Scenario()
        self.trace = trace
        self.config = config
        self.schema = config.schema
        total = playable(trace, config, scenario)
        if starts is None:  # every window that there is
            starts = np.arange(max(total - config.length, 0) + 1, dtype=np.int64)
        if incidents is not None:
            check_incidents(incidents, len(trace.nodes))
        check_starts(trace, config, starts, total)
        check_heads(scenario, config)
        check_services(trace, scenario.services, scenario.fleet)
        self.scenario = scenario  # rows hold the address of its series
        around = surroundings(scenario, trace, starts, config, incidents)
        standing = Standing.of(scenario.services, scenario.fleet, trace.nodes)
        self.source = _make_source(trace, config, starts, around, standing)
        self.standing = len(standing.requests)
        shape = ClusterShape(
            envs=envs,
            jobs=max(config.episode_jobs + self.standing, 1),
            workers=max(most_workers(trace), int(standing.requests["max_workers"].max(initial=1))),
            nodes=len(self.source.nodes),
            devices=max(node.gpus for node in trace.nodes),
            incidents=around.most_incidents,
            tenants=max(len(around.tenants), 1),
            curves=max(len(around.curves), 1),
            uplinks=max(len(around.uplinks), 1),
            typical=len(around.typical),
            services=max(self.standing, 1),
            kinds=memo_kinds(
                len(self.source.nodes),
                envs,
                count_kinds(trace.requests) + self.standing,
                often=not config.commitment,
            ),
        )
        self.state = allocate(shape)
        _configure(self.state, config)
        configure_scenario(self.state, scenario)
        self.buffers = make_buffers(shape, config)
        self.bench = make_bench(shape, config)
        helpers = [make_bench(shape, config) for _ in range(min(threads, envs) - 1)]
        self._crew = Crew(envs, [self.bench, *helpers])
        self.seeds = np.zeros(envs, np.uint64)
        self._any_window = np.full(envs, -1, np.int64)

    @property
    def envs(self) -> int:
        """Number of rows."""
        return self.state.shape.envs

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
            Index into ``source.starts`` of the window to play; -1 or None: by the sampling.
        """
        if which is None:
            which = np.ones(self.envs, np.bool_)
        if windows is None:
            windows = self._any_window
        _check_shape("reset: 'which'", which, self.envs)
        _check_windows(windows, -1, self)
        kernels.reset_rows(
            self.state.rows, which, self.seeds, windows, self.source, self.buffers, self.bench
        )

    def reseed(self, seeds: NDArray[np.uint64]) -> None:
        """Give each row a new seed and start its sequence of episodes over."""
        self.seeds[:] = seeds
        self.buffers.episode[:] = 0

    def reseed_row(self, e: int, seed: int) -> None:
        """Do the same for one row."""
        self.seeds[e] = seed
        self.buffers.episode[e] = 0

    def step(self, actions: NDArray[np.int64]) -> None:
        """Step all rows; the results are in ``buffers``."""
        _check_shape("step: 'actions'", actions, self.envs)
        self._crew.step(self.state.rows, actions, self.source, self.buffers)

    def replay(self, rule: Rule, windows: NDArray[np.int64] | None = None) -> None:
        """Play window ``windows[e]`` (None: window e) to its end in each row, under a rule."""
        if windows is None:
            windows = np.arange(self.envs, dtype=np.int64)
        _check_windows(windows, 0, self)
        if rule.placement == Placement.FGD and len(self.source.typical) == 0:
            raise ConfigurationError(
                f"rule '{rule.name}' measures fragmentation, and this environment does not: name "
                f"'fgd' among its 'placements'"
            )
        kernels.replay_rows(
            self.state.rows, 0, self.envs, windows, rule.to_record(), self.source, self.bench
        )

    def close(self) -> None:
        """End the threads that step rows."""
        self._crew.close()

    def begin(self, windows: NDArray[np.int64]) -> None:
        """Begin window ``windows[e]`` in each row as :meth:`replay` does, and play nothing of it.

        The rows are then for :func:`orchestrator.scheduler.rollout.rollout`.
        """
        _check_windows(windows, 0, self)
        kernels.begin_rows(self.state.rows, 0, self.envs, windows, self.source)

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
        return observed(self.buffers, self.schema, e)

    def window_jobs(self, e: int) -> NDArray[np.int64]:
        """Trace indices of the jobs of a row's episode."""
        start = int(self.source.starts[self.buffers.start_index[e]])
        return np.arange(start, start + self.config.episode_jobs, dtype=np.int64)


def _check_shape(what: str, values: NDArray[Any], rows: int) -> None:
    if values.shape != (rows,):
        raise ConfigurationError(
            f"{what} has shape {values.shape}; give one for each of {rows} rows"
        )


def _check_windows(windows: NDArray[np.int64], least: int, session: Session) -> None:
    _check_shape("'windows'", windows, session.envs)
    known = len(session.source.starts)
    wrong = windows[(windows < least) | (windows >= known)]
    if len(wrong) > 0:
        raise ConfigurationError(f"window {wrong[0]} of {known}; give an index below {known}")


def _make_source(
    trace: Trace,
    config: EnvConfig,
    starts: NDArray[np.int64],
    around: Surroundings,
    standing: Standing,
) -> kernels.Source:
    settings = np.zeros(1, kernels.SETTINGS_DTYPE)
    settings["length"] = config.episode_jobs
    settings["encoding"] = config.encoding
    settings["form"] = kernels.RewardForm[config.reward.form.upper()]
    settings["scaled"] = config.reward.reference is not None
    settings["sampling"] = config.sampling
    settings["advice"] = config.advice is not None
    settings["tenants"] = config.tenants > 0
    settings["fleet"] = config.fleet
    settings["around"] = config.shows_surroundings
    fields = ("user", "group", "application")
    largest = [trace.requests["requested_ms"].max() / 1000.0]
    largest += [max(float(trace.requests[name].max()), 1.0) for name in fields]
    # Kernels are compiled anew for arrays that differ in being writeable, as copies of a trace may.
    requests = trace.requests.view()
    requests.flags.writeable = False
    return kernels.Source(
        settings=settings,
        trace=requests,
        nodes=around.nodes,
        incidents=around.incidents,
        incident_range=around.incident_range,
        tenants=around.tenants,
        curves=around.curves,
        uplinks=around.uplinks,
        services=around.services,
        standing=standing.requests,
        plans=standing.plans,
        series_range=around.series_range,
        typical=around.typical,
        gittins=around.gittins,
        starts=np.array(starts, np.int64),
        reference=np.full(len(starts), np.nan),
        reference_rule=config.reward.reference_rule.to_record(),
        advisor=rule_named(config.advice or "fcfs").to_record(),
        weights=config.reward.weights,
        generators=config.generators,
        maxima=np.array(largest, np.float64),
    )


def _configure(state: ClusterState, config: EnvConfig) -> None:
    configure_view(state, config)
    rows = state.rows
    rows["commitment"] = config.commitment
    rows["backfill"] = config.backfill
    rows["ageing_ms"] = round(config.ageing_seconds * 1000)
    rows["preemption_limit"] = config.preemption_limit
    rows["min_run_ms"] = round(config.min_run_seconds * 1000)
    rows["information"] = config.information
    rows["skip_forced"] = config.skip_forced
    rows["turn_away"] = config.turn_away
    rows["step_limit"] = config.step_limit
    rows["autoscale"] = config.autoscale
