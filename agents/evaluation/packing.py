"""Packing suites: pods arrive until a cluster is full; how much of its GPUs each policy allocates.

The protocol of Weng et al., USENIX ATC 2023: pods in random order, drawn again until they ask for
a multiple of the cluster's GPUs; nobody leaves; a pod that finds no place is turned away.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from agents.evaluation.files import write_json, write_text
from agents.evaluation.placing import place_by_policy
from agents.task import BatchPolicy
from envs.config import PLACEMENT, EnvConfig
from envs.workloads import Trace, inflate, typical_pods
from orchestrator.errors import ConfigurationError
from orchestrator.kernels import entry, packing
from orchestrator.kernels.codes import Placement
from orchestrator.kernels.state import ClusterShape, allocate
from orchestrator.resources.records import node_records

__all__ = [
    "PackingResult",
    "PackingSuite",
    "packing_table",
    "print_packing",
    "run_packing",
    "write_packing",
]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PackingSuite:
    """What is to be packed.

    Parameters
    ----------
    name : str
    policies : mapping of str to str
        Name in the table to :class:`Placement`, by name.
    seeds : sequence of int
        Of the order in which pods arrive.
    ratio : float
        GPUs asked for in the end, as a multiple of those that there are.
    published : mapping of str to float, optional
        GPU allocation that others published for a policy, percent.
    source : str, optional
        Who.
    kinds : int, optional
        Request kinds that are remembered; 0: every placement looks at all nodes.
    """

    name: str
    policies: Mapping[str, str]
    seeds: Sequence[int]
    ratio: float = 1.3
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    kinds: int = 512

    def __post_init__(self) -> None:
        """Reject unknown names and empty lists."""
        known = ", ".join(placement.name.lower() for placement in Placement)
        for policy, placement in self.policies.items():
            if placement.upper() not in Placement.__members__:
                raise ConfigurationError(
                    f"suite: policy '{policy}' places by '{placement}'; choose from {known}"
                )
        for policy in self.published:
            if policy not in self.policies:
                raise ConfigurationError(f"suite: '{policy}' is published, but no policy")
        if not self.policies or not self.seeds or self.ratio <= 0:
            raise ConfigurationError(
                "suite: give at least one of 'policies' and 'seeds', and a 'ratio' above 0"
            )


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

    Returns
    -------
    list of PackingResult
        The learned policies first.
    """
    nodes, typical = node_records(trace.nodes), typical_pods(trace.requests)
    percents = np.arange(round(suite.ratio * 100) + 1)
    found: dict[str, list[tuple[float, NDArray[np.float64], int, float]]] = {
        policy: [] for policy in (*(policy.name for policy in learned), *suite.policies)
    }
    for seed in suite.seeds:
        arrivals = inflate(trace, suite.ratio, seed).requests
        state = allocate(
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
        size = arrivals["gpus_per_worker"].astype(np.int64) * arrivals["gpu_milli"]
        asked = 100.0 * np.cumsum(size) / (1000 * trace.gpus)
        scratch = np.zeros(state.shape.workers, np.int32)
        for policy, placement in suite.policies.items():
            if advance is not None:
                advance(policy)
            entry.begin_episode(state.rows, 0, seed, nodes, arrivals)
            packing.load_typical(state.rows, 0, typical)
            free = np.zeros(len(arrivals), np.int64)
            generator = int(Placement[placement.upper()])
            begun = perf_counter()
            count = packing.pack_arrivals(state.rows, 0, len(arrivals), generator, scratch, free)
            spent = perf_counter() - begun
            held = 100.0 * (1.0 - free / int(state.rows[0]["capacity_units"]))
            found[policy].append((float(held[-1]), _curve(held, asked, percents), count, spent))
        for chooser in learned:
            if advance is not None:
                advance(chooser.name)
            begun = perf_counter()
            placed = place_by_policy(chooser, config or PLACEMENT, trace, arrivals)
            spent = perf_counter() - begun
            held = 100.0 * np.cumsum(size * placed) / (1000 * trace.gpus)
            curve = _curve(held, asked, percents)
            found[chooser.name].append((float(held[-1]), curve, int(placed.sum()), spent))
    return [
        PackingResult(
            policy=policy,
            allocation=np.array([run[0] for run in runs]),
            curve=np.stack([run[1] for run in runs]),
            placed=np.array([run[2] for run in runs]),
            seconds=np.array([run[3] for run in runs]),
        )
        for policy, runs in found.items()
    ]


def _curve(
    held: NDArray[np.float64], asked: NDArray[np.float64], percents: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What is held when so many percent have been asked for."""
    last = np.searchsorted(asked, percents, side="right") - 1
    curve: NDArray[np.float64] = np.where(last >= 0, held[last], 0.0)
    return curve


_HEADER = ("policy", "GPU allocation %", "sd", "published %", "difference", "pods placed", "s/run")


def _lines(suite: PackingSuite, results: Sequence[PackingResult]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for result in results:
        published = suite.published.get(result.policy)
        lines.append(
            (
                result.policy,
                f"{result.mean:.2f}",
                f"{result.deviation:.2f}",
                "" if published is None else f"{published:.2f}",
                "" if published is None else f"{result.mean - published:+.2f}",
                f"{result.placed.mean():,.0f}",
                f"{np.median(result.seconds):.2f}",
            )
        )
    return lines


def packing_table(suite: PackingSuite, trace: Trace, results: Sequence[PackingResult]) -> str:
    """The results as a table in Markdown."""
    rows = [_HEADER, ("---", *["---:"] * (len(_HEADER) - 1)), *_lines(suite, results)]
    seeds = f"seeds {min(suite.seeds)} to {max(suite.seeds)}"
    head = (
        f"{trace.name}: {len(trace.nodes):,} nodes, {trace.gpus:,} GPUs; pods arrive until "
        f"{suite.ratio:.0%} of them are asked for; {len(suite.seeds)} orders ({seeds})."
    )
    text = [head, "", *("| " + " | ".join(row) + " |" for row in rows), ""]
    if suite.source:
        text += [f"Published: {suite.source}.", ""]
    return "\n".join(text)


def print_packing(suite: PackingSuite, results: Sequence[PackingResult], console: Console) -> None:
    """Show the results."""
    table = Table(title=f"Suite '{suite.name}'", title_justify="left")
    for number, name in enumerate(_HEADER):
        table.add_column(name, justify="left" if number == 0 else "right")
    for line in _lines(suite, results):
        table.add_row(*line)
    console.print(table)


def write_packing(
    suite: PackingSuite, trace: Trace, results: Sequence[PackingResult], folder: Path
) -> None:
    """Write ``table.md``, ``summary.json`` and the picture of the curves, ``allocation.png``."""
    from agents.plots import draw_packing

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", packing_table(suite, trace, results))
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "suite": asdict(suite),
        "trace": {"name": trace.name, "nodes": len(trace.nodes), "gpus": trace.gpus},
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
    draw_packing(folder / "allocation.png", results, suite.published)
