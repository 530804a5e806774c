"""Suites of pods: they arrive until a cluster is full; how much of its GPUs each policy allocates.

The protocol of Weng et al., USENIX ATC 2023: pods in random order, drawn again until they ask for
a multiple of the cluster's GPUs; nobody leaves; a pod that finds no place is turned away. Nodes are
in a random order, too: their simulator gives them new names in each run, and takes the first name
where scores are equal. With the nodes in the order of the list, policies with many ties (GPU
packing and GPU clustering, which score all nodes alike for a pod without GPUs) fill the same few
machines' cores in every run, and come out 0.2 to 1.6 points too low.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from agents.bundle import CardTable
from agents.files import markdown_table, write_json, write_text
from agents.problem import BatchPolicy
from envs.config import PLACEMENT, EnvConfig
from envs.scenario import Scenario
from envs.session import Session
from envs.workloads import Trace, inflate, typical_pods
from orchestrator.engine.records import node_records
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import packing
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import FOREVER_MS, JobCode, Placement
from orchestrator.kernels.state.row import ClusterShape, allocate

__all__ = [
    "PackingResult",
    "PackingSuite",
    "PublishedPacking",
    "packing_card",
    "packing_table",
    "place_by_policy",
    "print_packing",
    "run_packing",
    "write_packing",
]

SCHEMA_VERSION = 2
_NODE_ORDER = 1  # of a seed: the draw that orders nodes; arrivals have one of their own


@dataclass(frozen=True)
class PublishedPacking:
    """What others allocated of a cluster with its pods; it is shown beside these only.

    Parameters
    ----------
    trace : str
        :attr:`envs.workloads.Trace.digest` of the pods and the cluster.
    means, deviations : mapping of str to float
        GPU allocation by policy, percent: mean and standard deviation over orders.
    source : str
        Who.
    ratio : float, optional
        GPUs asked for in the end, as a multiple of those that there are.
    """

    trace: str
    means: Mapping[str, float]
    deviations: Mapping[str, float]
    source: str
    ratio: float = 1.3


@dataclass(frozen=True)
class PackingSuite:
    """What is to be packed.

    Parameters
    ----------
    name : str
    policies : mapping of str to str
        Name in the table to :class:`Placement`, by name.
    seeds : sequence of int
        Of the order in which pods arrive, and of that in which nodes of equal score are taken.
    ratio : float
        GPUs asked for in the end, as a multiple of those that there are.
    published : sequence of PublishedPacking, optional
        What others published, for whichever pods; see :meth:`published_for`.
    kinds : int, optional
        Request kinds that are remembered; 0: every placement looks at all nodes.
    """

    name: str
    policies: Mapping[str, str]
    seeds: Sequence[int]
    ratio: float = 1.3
    published: Sequence[PublishedPacking] = ()
    kinds: int = 512

    def __post_init__(self) -> None:
        """Reject unknown names and empty lists."""
        known = ", ".join(placement.name.lower() for placement in Placement)
        for policy, placement in self.policies.items():
            if placement.upper() not in Placement.__members__:
                raise ConfigurationError(
                    f"suite: policy '{policy}' places by '{placement}'; choose from {known}"
                )
        for row in self.published:
            for policy in (*row.means, *row.deviations):
                if policy not in self.policies:
                    raise ConfigurationError(f"suite: '{policy}' is published, but no policy")
        if not self.policies or not self.seeds or self.ratio <= 0:
            raise ConfigurationError(
                "suite: give at least one of 'policies' and 'seeds', and a 'ratio' above 0"
            )

    def published_for(self, trace: Trace) -> PublishedPacking | None:
        """What others published for these very pods and nodes, and as many of them."""
        for row in self.published:
            if row.trace == trace.digest and row.ratio == self.ratio:
                return row
        return None


@dataclass(frozen=True)
class PackingResult:
    """What a policy allocated.

    Parameters
    ----------
    policy : str
    allocation : ndarray of float64, shape [seeds]
        Share of the cluster's GPUs in the end, percent.
    curve : ndarray of float64, shape [seeds, percents]
        The same when 0, 1, 2, ... percent of the cluster's GPUs have been asked for.
    placed : ndarray of int64, shape [seeds]
        Pods placed.
    seconds : ndarray of float64, shape [seeds]
    """

    policy: str
    allocation: NDArray[np.float64]
    curve: NDArray[np.float64]
    placed: NDArray[np.int64]
    seconds: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean allocation over the seeds, percent."""
        return float(self.allocation.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds (0 of a single one), percent."""
        return float(self.allocation.std(ddof=1)) if len(self.allocation) > 1 else 0.0


def run_packing(
    suite: PackingSuite,
    trace: Trace,
    advance: Callable[[str], None] | None = None,
    learned: Sequence[BatchPolicy] = (),
    config: EnvConfig | None = None,
    only: Sequence[str] | None = None,
) -> list[PackingResult]:
    """Pack a trace's cluster with its pods under every policy and seed.

    Parameters
    ----------
    suite : PackingSuite
    trace : Trace
        Pods of one worker each, and their cluster.
    advance : callable or None, optional
        Called with the name of the policy before each run.
    learned : sequence of BatchPolicy, optional
        Policies that choose nodes, to be judged beside the suite's.
    config : EnvConfig or None, optional
        The environment that they see.
    only : sequence of str or None, optional
        Those of the suite's policies that are played; None: all.

    Returns
    -------
    list of PackingResult
        The learned policies first.
    """
    nodes, typical = node_records(trace.nodes), typical_pods(trace.requests)
    rules = list(suite.policies) if only is None else list(only)
    names = [*(policy.name for policy in learned), *rules]
    found: dict[str, list[_Run]] = {name: [] for name in names}
    for seed in suite.seeds:
        order = _Order(suite, trace, seed, nodes, typical)
        for policy in rules:
            if advance is not None:
                advance(policy)
            found[policy].append(order.by_rule(Placement[suite.policies[policy].upper()]))
        for chooser in learned:
            if advance is not None:
                advance(chooser.name)
            found[chooser.name].append(order.by_policy(chooser, config or PLACEMENT))
    return [
        PackingResult(
            policy=policy,
            allocation=np.array([run.allocation for run in runs]),
            curve=np.stack([run.curve for run in runs]),
            placed=np.array([run.placed for run in runs]),
            seconds=np.array([run.seconds for run in runs]),
        )
        for policy, runs in found.items()
    ]


class _Run(NamedTuple):
    """What a policy made of one order of arrival; fields as in :class:`PackingResult`."""

    allocation: float
    curve: NDArray[np.float64]
    placed: int
    seconds: float


class _Order:
    """One order in which pods arrive, and an empty cluster for them, its nodes in random order."""

    def __init__(
        self,
        suite: PackingSuite,
        trace: Trace,
        seed: int,
        nodes: NDArray[np.void],
        typical: NDArray[np.void],
    ) -> None:
        ranks = np.random.default_rng([seed, _NODE_ORDER]).permutation(len(nodes))
        self._trace = replace(trace, nodes=tuple(trace.nodes[n] for n in ranks))
        self._seed, self._nodes, self._typical = seed, nodes[ranks], typical
        self._arrivals = inflate(trace, suite.ratio, seed).requests
        arrivals = self._arrivals
        self._state = allocate(
            ClusterShape(
                envs=1,
                jobs=len(arrivals),
                workers=int(arrivals["workers"].max()),
                nodes=len(nodes),
                devices=int(nodes["gpus"].max()),
                typical=len(typical),
                kinds=suite.kinds,
            )
        )
        self._size = arrivals["gpus_per_worker"].astype(np.int64) * arrivals["gpu_milli"]
        self._asked = 100.0 * np.cumsum(self._size) / (1000 * trace.gpus)
        self._percents = np.arange(round(suite.ratio * 100) + 1)

    def by_rule(self, placement: Placement) -> _Run:
        """Pack by a generator of placements, compiled."""
        rows, count = self._state.rows, len(self._arrivals)
        entry.begin_episode(rows, 0, self._seed, self._nodes, self._arrivals)
        packing.load_typical(rows, 0, self._typical)
        scratch = np.zeros(self._state.shape.workers, np.int32)
        free = np.zeros(count, np.int64)
        begun = perf_counter()
        placed = packing.pack_arrivals(rows, 0, count, int(placement), scratch, free)
        spent = perf_counter() - begun
        return self._run(100.0 * (1.0 - free / int(rows[0]["capacity_units"])), placed, spent)

    def by_policy(self, policy: BatchPolicy, config: EnvConfig) -> _Run:
        """Pack by a policy that chooses nodes."""
        begun = perf_counter()
        placed = place_by_policy(policy, config, self._trace, self._arrivals)
        spent = perf_counter() - begun
        held = 100.0 * np.cumsum(self._size * placed) / (1000 * self._trace.gpus)
        return self._run(held, int(placed.sum()), spent)

    def _run(self, held: NDArray[np.float64], placed: int, seconds: float) -> _Run:
        """A run by what was held after each arrival, percent."""
        last = np.searchsorted(self._asked, self._percents, side="right") - 1
        curve: NDArray[np.float64] = np.where(last >= 0, held[last], 0.0)
        return _Run(float(held[-1]), curve, placed, seconds)


def place_by_policy(
    policy: BatchPolicy, config: EnvConfig, trace: Trace, arrivals: NDArray[np.void]
) -> NDArray[np.bool_]:
    """Let pods arrive one after the other, and a policy choose a node for each; nobody leaves.

    Parameters
    ----------
    policy : BatchPolicy
    config : EnvConfig
        The environment that it sees; one that chooses nodes.
    trace : Trace
        The cluster, and the pods that are typical of it.
    arrivals : REQUEST_DTYPE [pods]

    Returns
    -------
    bool [pods]
        Who found a node.

    Raises
    ------
    ConfigurationError
        If the environment leaves no choice of nodes.
    IllegalActionError
        If the policy chooses an action that its mask forbids.
    """
    if not (config.choose_node and config.turn_away):
        raise ConfigurationError(
            "placing: the environment needs 'choose_node' and 'turn_away'; give one like Placement"
        )
    requests = arrivals.copy()
    requests["duration_ms"] = requests["requested_ms"] = FOREVER_MS
    order = replace(trace, requests=requests)
    config = replace(config, episode_jobs=len(requests), step_limit=0)
    scenario = Scenario(pods=trace.requests)
    session = Session(order, config, 1, np.zeros(1, np.int64), scenario=scenario)
    session.reset()
    while not session.buffers.terminated[0]:
        seen = session.observation()
        session.step(policy.actions(seen, seen["action_mask"].astype(np.bool_)))
        session.require_legal()
    placed: NDArray[np.bool_] = session.state.job[0]["state"] == JobCode.RUNNING
    return placed


_HEADER = ("policy", "GPUs, %", "sd", "pods", "s/run")
_BESIDE = ("published", "sd", "difference")


def _lines(
    results: Sequence[PackingResult], published: PublishedPacking | None
) -> list[tuple[str, ...]]:
    """The table, its head first; columns about what is published only where something is."""
    lines: list[tuple[str, ...]] = [(*_HEADER[:3], *(_BESIDE if published else ()), *_HEADER[3:])]
    for result in results:
        mean = None if published is None else published.means.get(result.policy)
        beside: tuple[str, ...] = ("", "", "") if published else ()
        if published is not None and mean is not None:
            deviation = published.deviations.get(result.policy)
            spread = "" if deviation is None else f"{deviation:.2f}"
            beside = (f"{mean:.2f}", spread, f"{result.mean - mean:+.2f}")
        lines.append(
            (
                result.policy,
                f"{result.mean:.2f}",
                f"{result.deviation:.2f}",
                *beside,
                f"{result.placed.mean():,.0f}",
                f"{np.median(result.seconds):.2f}",
            )
        )
    return lines


def packing_table(suite: PackingSuite, trace: Trace, results: Sequence[PackingResult]) -> str:
    """The results as a table in Markdown."""
    published = suite.published_for(trace)
    header, *lines = _lines(results, published)
    table = markdown_table(header, lines, text_columns=1)
    seeds = f"seeds {min(suite.seeds)} to {max(suite.seeds)}"
    head = (
        f"{trace.name}: {len(trace.nodes):,} nodes, {trace.gpus:,} GPUs; pods arrive until "
        f"{suite.ratio:.0%} of them are asked for; {len(suite.seeds)} orders ({seeds}). GPUs that "
        "are allocated then, mean and standard deviation; pods placed."
    )
    text = [head, "", table, ""]
    if published is not None:
        text += [f"Published: {published.source}.", ""]
    return "\n".join(text)


def packing_card(suite: PackingSuite, trace: Trace, results: Sequence[PackingResult]) -> CardTable:
    """The results for a bundle's card."""
    return CardTable(
        f"{suite.name}: GPUs allocated when {suite.ratio:.0%} are asked for, "
        f"{len(suite.seeds)} orders of {trace.name}",
        ("policy", "mean, %", "standard deviation"),
        [(one.policy, one.mean, one.deviation) for one in results],
    )


def print_packing(
    suite: PackingSuite, trace: Trace, results: Sequence[PackingResult], console: Console
) -> None:
    """Show the results."""
    table = Table(title=f"Suite '{suite.name}', {trace.name}", title_justify="left")
    header, *lines = _lines(results, suite.published_for(trace))
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def write_packing(
    suite: PackingSuite, trace: Trace, results: Sequence[PackingResult], folder: Path
) -> None:
    """Write ``table.md`` and ``summary.json``."""
    write_text(folder / "table.md", packing_table(suite, trace, results))
    published = suite.published_for(trace)
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "suite": {**asdict(suite), "published": None if published is None else asdict(published)},
        "trace": {
            "name": trace.name,
            "nodes": len(trace.nodes),
            "gpus": trace.gpus,
            "digest": trace.digest,
        },
        "python": platform.python_version(),
        "policies": {
            result.policy: {
                "mean": result.mean,
                "sd": result.deviation,
                "allocation": result.allocation.round(4).tolist(),
                "placed": result.placed.tolist(),
                "seconds": result.seconds.round(3).tolist(),
            }
            for result in results
        },
    }
    write_json(folder / "summary.json", summary)
