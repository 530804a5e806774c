"""Rows of the engine, their buffers and their source of episodes: what every environment wraps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_incidents, check_threads, check_trace
from envs.config import EnvConfig
from envs.crew import Crew
from envs.scenario import Scenario, Surroundings, surroundings
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels import session as kernels
from orchestrator.kernels.candidates import CANDIDATE_NAMES, VICTIM_NAMES
from orchestrator.kernels.codes import NO_JOB, Reason
from orchestrator.kernels.elastics import ELASTIC_NAMES
from orchestrator.kernels.features import GLOBAL_NAMES, STATIC_WIDTH, make_scratch
from orchestrator.kernels.metrics import Metric
from orchestrator.kernels.state import ClusterShape, ClusterState, allocate
from orchestrator.resources.records import node_records
from orchestrator.scheduler.rules import Rule, rule_named
from orchestrator.scheduler.schema import FeatureSchema

__all__ = ["Session", "configure_view", "make_bench", "make_buffers", "observed"]

Observation = dict[str, NDArray[Any]]

_ASKS = 64
_TABLE_NODES = 256  # with more, looking up the best node beats looking at all


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
        First job of each window that episodes may play; None: every one of ``episode_jobs``
        consecutive jobs.
    incidents : INCIDENT_DTYPE [I] or None
        Node failures and recoveries of every episode, times from its start.
    scenario : Scenario or None
        Failures drawn for each window, tenants, throughput curves, links.
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
        check_trace(trace, config)
        self.trace = trace
        self.config = config
        self.schema = config.schema
        if starts is None:
            starts = np.arange(len(trace) - config.episode_jobs + 1, dtype=np.int64)
        if incidents is not None:
            check_incidents(incidents, len(trace.nodes))
        _check_starts(trace, config, starts)
        scenario = scenario or Scenario()
        around = surroundings(
            scenario, trace, starts, config.episode_jobs, config.placements, incidents
        )
        self.source = _make_source(trace, config, starts, around)
        shape = ClusterShape(
            envs=envs,
            jobs=config.episode_jobs,
            workers=_most_workers(trace),
            nodes=len(trace.nodes),
            devices=max(node.gpus for node in trace.nodes),
            incidents=around.most_incidents,
            tenants=max(len(around.tenants), 1),
            curves=max(len(around.curves), 1),
            uplinks=max(len(around.uplinks), 1),
            typical=len(around.typical),
            asks=_asks(config, len(trace.nodes)),
        )
        self.state = allocate(shape)
        _configure(self.state, config)
        self.state.rows["quota_mode"] = scenario.quota_mode
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
        kernels.replay_rows(
            self.state.rows, 0, self.envs, windows, rule.to_record(), self.source, self.bench
        )

    def close(self) -> None:
        """End the threads that step rows."""
        self._crew.close()

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


def observed(
    buffers: kernels.Buffers, schema: FeatureSchema, e: int | slice = slice(None)
) -> Observation:
    """What buffers say of a row, or of all, as observations hold it: views, not copies."""
    seen: Observation = {
        "queue": buffers.queue[e],
        "global": buffers.globals[e],
        "action_mask": buffers.mask[e],
    }
    if schema.candidates:
        seen["candidates"] = buffers.candidates[e]
    if schema.victims:
        seen["victims"] = buffers.victims[e]
    if schema.advice:
        seen["advice"] = buffers.advice[e]
    if schema.elastics:
        seen["elastics"] = buffers.elastics[e]
    return seen


def _asks(config: EnvConfig, nodes: int) -> int:
    """Entries of a row's slot table: where a step describes many placements, but not too large."""
    return 0 if config.commitment or nodes > _TABLE_NODES else _ASKS


def _most_workers(trace: Trace) -> int:
    """Most workers that any job of a trace may have."""
    elastic = trace.requests["elastic"] != 0
    grown = trace.requests["max_workers"][elastic].max(initial=1)
    gpus = sum(node.gpus for node in trace.nodes)
    cores = sum(node.cpu_cores for node in trace.nodes)
    # Nobody has more workers than there are GPUs or cores: a lavish maximum costs no memory.
    return int(max(trace.requests["workers"].max(), min(int(grown), max(gpus, cores, 1))))


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


def _check_starts(trace: Trace, config: EnvConfig, starts: NDArray[np.int64]) -> None:
    if len(starts) == 0:
        raise ConfigurationError("environment: no windows to play; 'starts' is empty")
    if starts.min() < 0 or starts.max() + config.episode_jobs > len(trace):
        raise ConfigurationError(
            f"environment: windows of {config.episode_jobs} jobs reach beyond the {len(trace)} "
            f"jobs of trace '{trace.name}'; shorten the episodes or move the windows"
        )


def _make_source(
    trace: Trace,
    config: EnvConfig,
    starts: NDArray[np.int64],
    around: Surroundings,
) -> kernels.Source:
    settings = np.zeros(1, kernels.SETTINGS_DTYPE)
    settings["length"] = config.episode_jobs
    settings["encoding"] = config.encoding
    settings["form"] = kernels.RewardForm[config.reward.form.upper()]
    settings["scaled"] = config.reward.reference is not None
    settings["sampling"] = config.sampling
    settings["advice"] = config.advice is not None
    fields = ("user", "group", "application")
    largest = [trace.requests["requested_ms"].max() / 1000.0]
    largest += [max(float(trace.requests[name].max()), 1.0) for name in fields]
    # Kernels are compiled anew for arrays that differ in being writeable, as copies of a trace may.
    requests = trace.requests.view()
    requests.flags.writeable = False
    return kernels.Source(
        settings=settings,
        trace=requests,
        nodes=node_records(trace.nodes),
        incidents=around.incidents,
        incident_range=around.incident_range,
        tenants=around.tenants,
        curves=around.curves,
        uplinks=around.uplinks,
        typical=around.typical,
        starts=np.array(starts, np.int64),
        reference=np.full(len(starts), np.nan),
        reference_rule=config.reward.reference_rule.to_record(),
        advisor=rule_named(config.advice or "fcfs").to_record(),
        weights=config.reward.weights,
        generators=np.array(config.placements, np.int32),
        maxima=np.array(largest, np.float64),
    )


def configure_view(state: ClusterState, config: EnvConfig) -> None:
    """Say in all rows of a state which sets of its entities policies see."""
    rows = state.rows
    rows["queue_window"] = config.window
    rows["window_order"] = config.window_order
    rows["candidates"] = len(config.placements)
    rows["victims"] = config.victims
    rows["elastics"] = config.elastics
    rows["migrate"] = config.migrate


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
    rows["step_limit"] = config.step_limit


def make_buffers(shape: ClusterShape, config: EnvConfig) -> kernels.Buffers:
    """Allocate what steps of rows of a shape write."""
    E, Q, V = shape.envs, config.window, max(config.victims, 1)
    schema = config.schema
    pairs = Q * len(config.placements) if schema.candidates else 1
    return kernels.Buffers(
        queue=np.zeros((E, Q, len(schema.queue)), np.float32),
        globals=np.zeros((E, len(GLOBAL_NAMES)), np.float32),
        candidates=np.zeros((E, pairs, len(CANDIDATE_NAMES)), np.float32),
        victims=np.zeros((E, V, len(VICTIM_NAMES)), np.float32),
        elastics=np.zeros((E, max(config.elastics, 1), len(ELASTIC_NAMES)), np.float32),
        advice=np.zeros((E, schema.actions.size if schema.advice else 1), np.float32),
        mask=np.zeros((E, schema.actions.size), np.int8),
        reward=np.zeros(E),
        terminated=np.zeros(E, np.bool_),
        truncated=np.zeros(E, np.bool_),
        reason=np.zeros(E, np.int32),
        shown=np.zeros((E, 3), np.int32),
        advised=np.full(E, -1, np.int32),
        window=np.full((E, Q), NO_JOB, np.int32),
        victim_jobs=np.full((E, V), NO_JOB, np.int32),
        elastic_jobs=np.full((E, max(config.elastics, 1)), NO_JOB, np.int32),
        static=np.zeros((E, shape.jobs, STATIC_WIDTH), np.float32),
        metrics=np.zeros((E, len(Metric))),
        scale=np.ones(E),
        episode=np.zeros(E, np.int64),
        start_index=np.zeros(E, np.int64),
        steps=np.zeros(E, np.int64),
    )


def make_bench(shape: ClusterShape, config: EnvConfig) -> kernels.Bench:
    """Allocate the scratch of one thread for rows of a shape."""
    releases, table, columns = make_scratch(shape.jobs, config.window)
    return kernels.Bench(
        nodes=np.zeros((len(config.placements) + 1) * shape.workers, np.int32),
        jobs=np.zeros(max(shape.jobs, shape.workers), np.int32),
        shapes=np.zeros(config.window, np.int32),
        releases=releases,
        table=table,
        columns=columns,
        scores=np.zeros(config.window),
        metrics=np.zeros((1, len(Metric))),
    )
