"""What is played: fixed suites, variant by variant, each with digests of what it is made of.

A cell is a list of windows and a cost on each, lower being better. Whoever is on the board has
played all windows of a cell, so that any two can be compared window by window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import hydra
import numpy as np
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from numpy.typing import NDArray
from omegaconf import DictConfig

from agents.build import Evaluation, build_evaluation, build_packing_suite, check_fields
from agents.evaluation.play import evaluate_policy
from agents.evaluation.pods import PackingSuite, run_packing
from agents.evaluation.suite import label, run_suite
from agents.problem import BatchPolicy, Windows, digest_of
from agents.program import config_dir
from agents.settings import check_number
from envs.config import PLACEMENT
from envs.outcomes import METRICS
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.scheduling.schema import FeatureSchema

__all__ = ["Cell", "FixedSuite", "PackingCell", "WindowsCell", "make_cells"]

Costs = NDArray[np.float64]

_ROWS = 128  # windows side by side: a policy in Python is asked less often
_UNALLOCATED = "unallocated GPUs, %"


class Cell(Protocol):
    """Windows that everybody on the board has played, and what is counted on them."""

    name: str
    group: str
    metric: str
    about: str
    """What it is, in a line for people."""

    @property
    def rules(self) -> Sequence[str]:
        """The rules that policies are measured against."""
        ...

    @property
    def made_of(self) -> Mapping[str, str]:
        """What the costs depend on, by name and digest."""
        ...

    @property
    def schema(self) -> FeatureSchema:
        """What policies see and answer here."""
        ...

    def rule_costs(self, rule: str, count: int | None = None) -> Costs:
        """Cost of a rule on each window [M], or on the first ``count``."""
        ...

    def policy_costs(self, policy: BatchPolicy) -> Costs:
        """Cost of a policy on each window [M]."""
        ...


@dataclass(frozen=True)
class FixedSuite:
    """A suite of the board, by the config that makes it.

    Parameters
    ----------
    name : str
    group : str
        Suites of one group are asked for together, and share a table.
    about : str
        What it is, in a line for people.
    config : sequence of str
        Overrides of ``conf/evaluate.yaml``, the suite's name among them.
    windows : int or None, optional
        How many of its windows are played, the first ones; None: all.
    lists : sequence of str, optional
        Of a suite of packing: files of pods, each of which is packed by all seeds; empty: the
        suite's own.
    """

    name: str
    group: str
    about: str
    config: Sequence[str]
    windows: int | None = None
    lists: Sequence[str] = ()

    @classmethod
    def from_config(cls, name: str, options: Mapping[str, Any]) -> FixedSuite:
        """From plain values.

        Raises
        ------
        ConfigurationError
            For an unknown field, or a missing one.
        """
        check_fields(f"leaderboard, suite '{name}'", cls, options, without=("name",))
        for field in ("group", "about", "config"):
            if field not in options:
                raise ConfigurationError(f"leaderboard, suite '{name}': '{field}' is missing")
        if options.get("windows") is not None:
            check_number(f"leaderboard, suite '{name}'", "windows", options["windows"], 1)
        return cls(name, **options)


def make_cells(fixed: FixedSuite) -> list[Cell]:
    """The cells of a suite of the board, one for each variant.

    Raises
    ------
    TraceError
        If it needs public traces that are not there.
    """
    cfg = _composed(fixed.config)
    try:
        if cfg.suite.get("kind") == "packing":
            return [_packing_cell(fixed, cfg)]
        made = build_evaluation(cfg)
    except InstantiationException as error:  # Hydra wraps what a target raises
        cause = error.__cause__
        while cause is not None and not isinstance(cause, TraceError):
            cause = cause.__cause__
        raise (error if cause is None else cause) from None
    return [WindowsCell(fixed, made, variant) for variant in made.suite.variants]


def _composed(overrides: Sequence[str]) -> DictConfig:
    """The config of an evaluation, within a program of Hydra's or without one."""
    if GlobalHydra.instance().is_initialized():
        return hydra.compose("evaluate", list(overrides))
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose("evaluate", list(overrides))


class WindowsCell:
    """Windows of a trace, in an environment and a scenario.

    Parameters
    ----------
    fixed : FixedSuite
    made : Evaluation
    variant : str
        Of its suite.
    """

    def __init__(self, fixed: FixedSuite, made: Evaluation, variant: str) -> None:
        suite = made.suite
        if METRICS[suite.metric] > 0:
            raise ConfigurationError(
                f"leaderboard, suite '{fixed.name}': more of '{suite.metric}' is better; choose a "
                "metric of which less is"
            )
        self._made = made
        only = {variant: suite.variants[variant]}
        self._suite = replace(
            suite, variants=only, baselines=(), zoo=(), series=(), published=(), keep_jobs=0
        )
        starts = self._suite.windows_of(variant, made.problem).starts[: fixed.windows].tolist()
        self._suite = replace(self._suite, starts=starts)
        self._windows = self._suite.windows_of(variant, made.problem)
        self._variant = variant
        self.name, self.group = label(fixed.name, variant), fixed.group
        self.metric = suite.metric
        self.about = fixed.about + (f", {variant.replace('_', ' ')}" if variant else "")

    @property
    def windows(self) -> Windows:
        """What is played."""
        return self._windows

    @property
    def rules(self) -> Sequence[str]:
        """The suite's."""
        return self._suite.rules

    @property
    def made_of(self) -> Mapping[str, str]:
        """Digests of trace, windows, environment, scenario, metric and rules."""
        played = self._windows.played_out()
        return {
            "trace": played.trace.content_digest,
            "windows": digest_of([played.starts, played.config.length]),
            "environment": digest_of(played.config),
            "scenario": digest_of(played.scenario),
            "metric": digest_of(self.metric),
            "rules": digest_of(list(self.rules)),
        }

    @property
    def schema(self) -> FeatureSchema:
        """The environment's."""
        return self._windows.config.schema

    def rule_costs(self, rule: str, count: int | None = None) -> Costs:
        """Cost of a rule on each window [M], or on the first ``count``."""
        starts = self._windows.starts[:count].tolist()
        suite = replace(self._suite, rules=(rule,), starts=starts)
        results = run_suite(suite, self._made.problem, history=self._made.history)
        return self._of(results[self._variant][0].values)

    def policy_costs(self, policy: BatchPolicy) -> Costs:
        """Cost of a policy on each window [M]."""
        return self._of(evaluate_policy(policy, self._windows, _ROWS, keep_jobs=0).values)

    def _of(self, values: Mapping[str, Costs]) -> Costs:
        return np.asarray(values[self.metric], np.float64)


def _packing_cell(fixed: FixedSuite, cfg: DictConfig) -> PackingCell:
    parts = []
    for path in fixed.lists or (str(cfg.suite.workload.path),):
        cfg.suite.workload.path = path
        parts.append(build_packing_suite(cfg.suite))
    return PackingCell(fixed, parts[0][0], tuple(trace for _, trace in parts))


class PackingCell:
    """Lists of pods that arrive until a cluster is full: what is left unallocated, percent.

    A window is a list in one order of arrival: all orders of the first list, then of the next.

    Parameters
    ----------
    fixed : FixedSuite
    suite : PackingSuite
    traces : sequence of Trace
    """

    def __init__(self, fixed: FixedSuite, suite: PackingSuite, traces: Sequence[Trace]) -> None:
        self._suite, self._traces = replace(suite, published=()), traces
        self.name, self.group = fixed.name, fixed.group
        self.about, self.metric = fixed.about, _UNALLOCATED

    @property
    def rules(self) -> Sequence[str]:
        """The suite's placements."""
        return list(self._suite.policies)

    @property
    def made_of(self) -> Mapping[str, str]:
        """Digests of the lists, the orders, what policies see, and the placements."""
        suite = self._suite
        return {
            "trace": digest_of([trace.content_digest for trace in self._traces]),
            "windows": digest_of([suite.seeds, suite.ratio]),
            "environment": digest_of(PLACEMENT),
            "metric": digest_of(self.metric),
            "rules": digest_of(dict(suite.policies)),
        }

    @property
    def schema(self) -> FeatureSchema:
        """That of an environment that places pods on the nodes of these clusters."""
        return PLACEMENT.for_nodes(len(self._traces[0].nodes)).schema

    def rule_costs(self, rule: str, count: int | None = None) -> Costs:
        """What a placement leaves unallocated, percent, in each order [M], or the first ones."""
        found: list[Costs] = []
        for trace in self._traces:
            left = None if count is None else count - sum(map(len, found))
            if left is not None and left <= 0:
                break
            suite = replace(self._suite, seeds=self._suite.seeds[:left])
            found.append(100.0 - run_packing(suite, trace, only=[rule])[0].allocation)
        return np.concatenate(found)

    def policy_costs(self, policy: BatchPolicy) -> Costs:
        """What a policy leaves unallocated, percent, in each order [M]."""
        played = [
            run_packing(self._suite, trace, learned=[policy], only=[]) for trace in self._traces
        ]
        return np.concatenate([100.0 - results[0].allocation for results in played])
