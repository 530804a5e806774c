"""Suites: which windows, which rules, under which variants of an environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agents.evaluation.outcomes import EvaluationResult
from agents.evaluation.play import (
    ZOO,
    Advance,
    evaluate_named,
    evaluate_policy,
    evaluate_zoo,
    is_planned,
    policy_named,
)
from agents.problem import BatchPolicy, Problem, RowPolicy, Windows
from agents.settings import check_number, check_seed, check_types
from envs.config import EnvConfig
from envs.outcomes import METRICS
from envs.workloads import Trace, WindowSplit
from envs.workloads.windows import Part
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import RuleKey
from orchestrator.own.loading import is_part_name
from orchestrator.scheduling.gittins import job_services
from orchestrator.scheduling.rules import RULES, Rule, rule_named

__all__ = ["Published", "Suite", "informed", "label", "labels", "run_suite"]


_Learned: TypeAlias = BatchPolicy | RowPolicy


@dataclass(frozen=True)
class Published:
    """A mean that others published for certain windows; it is shown beside these only.

    Parameters
    ----------
    policy : str
        Its name, as it shall stand in the table.
    variant : str
    value : float
        Mean of the metric.
    source : str
    windows : str
        :attr:`agents.problem.Windows.digest` of the windows that it is about.
    metric : str, optional
        The one of :data:`METRICS` that it is of.
    """

    policy: str
    variant: str
    value: float
    source: str
    windows: str
    metric: str = "bounded_slowdown"


@dataclass(frozen=True)
class Suite:
    """What is to be played.

    Parameters
    ----------
    name : str
    length : int
        Jobs of a window; 0: the whole trace is one window.
    rules : sequence of str
        Rules to play. They may be policies as in ``zoo``, too: names of these, or one's own rules
        and policies as ``package.module:Name`` (:func:`agents.evaluation.play.policy_named`).
    baselines : sequence of str
        Those of the rules that policies are compared with.
    variants : mapping of str to mapping, optional
        By name, fields of the environment that differ. The name is appended to policies' names;
        the empty name leaves them as they are.
    metric : str, optional
        The one of :data:`METRICS` that comparisons are about.
    starts : sequence of int or None, optional
        First job of each window; None: ``windows`` windows are drawn from ``part``.
    part : {"train", "validation", "test"}, optional
    windows : int, optional
    seed : int, optional
        Of the drawn windows and of the bootstrap.
    keep_jobs : int or None, optional
        Windows whose jobs go into the per-job table; None: all.
    split : mapping of str to float, optional
        Fractions of the jobs for training, validation and test; empty: those of
        :class:`envs.workloads.WindowSplit`.
    zoo : sequence of str, optional
        Policies of :data:`agents.evaluation.play.ZOO` to play, or one's own as
        ``package.module:Class``. Learned policies are compared with each.
    zoo_windows : mapping of str to int, optional
        For those of them that are slow, how many windows to play: the first ones. They are
        compared with others on these. Policies that are not played may be named.
    columns : sequence of str, optional
        Further metrics to be shown in tables and pictures; empty: the usual few.
    series : sequence of str, optional
        Rules whose course through one window is drawn.
    published : sequence of Published, optional
        What others reached, on whichever windows; see :meth:`published_for`.
    at_home : bool, optional
        Whether trained policies are played only in those variants whose fields are as they were in
        training.
    ahead : sequence of str, optional
        Rules that are played thinking ahead, too, if it is said how.
    ahead_by : mapping of str to float, optional
        Weights of features by which the actions are ranked that such a rule tries beside its own:
        any that is legal. The rule has to be the advice of the environment, of which ``advice`` is
        the weight. Empty: it tries placements, in its own order.
    """

    name: str
    length: int
    rules: Sequence[str]
    baselines: Sequence[str]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    metric: str = "bounded_slowdown"
    starts: Sequence[int] | None = None
    part: Part = "test"
    windows: int = 200
    seed: int = 0
    keep_jobs: int | None = None
    split: Mapping[str, float] = field(default_factory=dict)
    zoo: Sequence[str] = ()
    zoo_windows: Mapping[str, int] = field(default_factory=dict)
    columns: Sequence[str] = ()
    series: Sequence[str] = ()
    published: Sequence[Published] = ()
    at_home: bool = False
    ahead: Sequence[str] = ()
    ahead_by: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject unknown names, and numbers that leave nothing to play."""
        self._check_numbers()
        for name in (*self.rules, *self.baselines):
            if name in ZOO or is_part_name(name):
                policy_named(name)
            else:
                rule_named(name)
        for name in (*self.series, *self.ahead):
            rule_named(name)
        for name in self.zoo:
            policy_named(name)
            if name in self.rules:
                raise ConfigurationError(f"suite: '{name}' is both in 'rules' and in 'zoo'")
        known = ", ".join(get_args(Part))
        for field_name, parts in (("split", self.split), ("part", (self.part,))):
            for name in parts:
                if name not in get_args(Part):
                    raise ConfigurationError(f"suite: '{field_name}' has '{name}'; known: {known}")
        for name, count in self.zoo_windows.items():
            policy_named(name)
            check_number("suite, 'zoo_windows'", name, count, 1)
        for name in (self.metric, *self.columns, *(row.metric for row in self.published)):
            if name not in METRICS:
                known = ", ".join(METRICS)
                raise ConfigurationError(f"suite: unknown metric '{name}'; known: {known}")
        for name in self.baselines:
            if name not in self.rules:
                raise ConfigurationError(f"suite: baseline '{name}' is not among the rules")

    def _check_numbers(self) -> None:
        """Reject numbers of windows, and what is drawn or kept of them, that make no sense."""
        check_types("suite", self)
        check_number("suite", "length", self.length, 0)
        check_number("suite", "windows", self.windows, 1)
        check_seed("suite", self.seed)
        if self.keep_jobs is not None:
            check_number("suite", "keep_jobs", self.keep_jobs, 0)
        if self.starts is not None and len(self.starts) == 0:
            raise ConfigurationError(
                "suite: 'starts' is empty; name the first job of one window at least, or leave it "
                "out to have windows drawn"
            )
        for start in () if self.starts is None else self.starts:
            check_number("suite", "starts", int(start), 0)
        if not self.variants:
            raise ConfigurationError(
                "suite: 'variants' is empty; name one at least, or none: {'': {}}"
            )

    def windows_of(self, variant: str, problem: Problem) -> Windows:
        """The windows of a problem's trace, in the environment of a variant."""
        starts = self.window_starts(problem.trace, problem.playable)
        length = self.window_length(problem.trace)
        config = replace(problem.config, **self.variants[variant]).of_length(length)
        return Windows(problem.trace, config, starts, problem.scenario)

    def is_home(self, variant: str, trained: EnvConfig) -> bool:
        """Whether an environment has the fields of a variant."""
        fields = self.variants[variant].items()
        return all(getattr(trained, name) == value for name, value in fields)

    def published_for(self, problem: Problem) -> tuple[Published, ...]:
        """What others published for the very windows of a problem, by the suite's metric."""
        digests = {name: self.windows_of(name, problem).digest for name in self.variants}
        return tuple(
            row
            for row in self.published
            if row.metric == self.metric and row.windows == digests.get(row.variant)
        )

    def split_of(self, total: int) -> WindowSplit:
        """Parts of so many jobs (or ticks)."""
        fractions: dict[str, Any] = dict(self.split)
        return WindowSplit(total, **fractions)

    def window_length(self, trace: Trace) -> int:
        """Jobs of a window of a trace."""
        return self.length or len(trace)

    def window_starts(self, trace: Trace, total: int | None = None) -> NDArray[np.int64]:
        """First job of each window; of windows of ticks, of which there are ``total``, the tick."""
        length = self.window_length(trace)
        total = len(trace) if total is None else total
        if self.length == 0:
            starts = np.zeros(1, np.int64)
        elif self.starts is not None:
            starts = np.array(self.starts, np.int64)
        else:
            split = self.split_of(total)
            starts = split.starts(self.part, self.windows, length, self.seed)
        beyond = starts[starts + length > total]
        if len(beyond) > 0:
            raise ConfigurationError(
                f"suite '{self.name}': a window of {length} from {beyond[0]} on reaches beyond the "
                f"{total} jobs (or ticks) of trace '{trace.name}'; choose the trace that the "
                f"suite is about"
            )
        return starts


def label(policy: str, variant: str) -> str:
    """Name of a policy under a variant."""
    return f"{policy}_{variant}" if variant else policy


def run_suite(
    suite: Suite,
    problem: Problem,
    policies: Sequence[_Learned] | Mapping[str, Sequence[_Learned]] = (),
    console: Console | None = None,
    history: Trace | None = None,
    processes: int = 1,
) -> dict[str, list[EvaluationResult]]:
    """Play a suite's windows under its rules and further policies.

    Parameters
    ----------
    suite : Suite
    problem : Problem
        Trace, scenario, and the environment that the suite's variants change; which windows are
        played, and how long they are, says the suite.
    policies : sequence of BatchPolicy or RowPolicy, or mapping of these, optional
        As a mapping: by variant.
    console : Console or None, optional
        Where a progress bar is shown.
    history : Trace or None, optional
        From the training part of this one the rule ``gittins`` knows how long jobs take; None: of
        the problem's.
    processes : int, optional
        Windows of a policy of the zoo, or one that plays rows by itself, that are played at the
        same time.

    Returns
    -------
    dict of str to list of EvaluationResult
        By variant; the policies first, then the rules, then the zoo.
    """
    problem = informed(suite, problem, history)
    variants = {variant: suite.windows_of(variant, problem) for variant in suite.variants}
    by_variant = policies if isinstance(policies, Mapping) else dict.fromkeys(variants, policies)
    plays = sum(_plays(suite, len(variants[name]), len(by_variant[name])) for name in variants)
    with _progress(console, plays) as advance:
        return {
            variant: _labelled(
                _play(suite, windows, by_variant[variant], advance, processes), variant
            )
            for variant, windows in variants.items()
        }


def _play(
    suite: Suite,
    windows: Windows,
    policies: Sequence[_Learned],
    advance: Advance,
    processes: int,
) -> list[EvaluationResult]:
    """Play a variant's windows: under the policies, then the rules, then the zoo."""
    keep = suite.keep_jobs
    results = [
        evaluate_policy(policy, windows, keep_jobs=keep, advance=advance, threads=processes)
        for policy in policies
    ]
    for name in (*suite.rules, *suite.zoo):
        few = suite.zoo_windows.get(name) if name in suite.zoo or is_planned(name) else None
        some = windows.first(len(windows) if few is None else few)
        if name in suite.zoo and name in RULES:  # asked point by point, as the zoo is
            results.append(evaluate_zoo(name, some, keep, advance, processes=processes))
        else:
            results.append(evaluate_named(name, some, keep, advance, processes=processes))
    return results


def _plays(suite: Suite, windows: int, policies: int) -> int:
    """Windows that are played under a variant, all in all."""
    planned = [*(name for name in suite.rules if is_planned(name)), *suite.zoo]
    slow = sum(min(suite.zoo_windows.get(name, windows), windows) for name in planned)
    rules = len(suite.rules) + len(suite.zoo) - len(planned)
    return windows * (policies + rules) + slow


def informed(suite: Suite, problem: Problem, history: Trace | None = None) -> Problem:
    """A problem with what ``gittins`` expects of jobs, if the suite plays it.

    Parameters
    ----------
    suite, problem, history
        As for :func:`run_suite`.
    """
    history = problem.trace if history is None else history
    played = [policy_named(name) for name in suite.rules if name not in ZOO]
    plays = any(isinstance(one, Rule) and one.key == RuleKey.GITTINS for one in played)
    if not plays or problem.scenario.past_services:
        return problem
    first, stop = suite.split_of(len(history)).region("train")
    past = job_services(history.requests[first:stop])
    return replace(problem, scenario=replace(problem.scenario, past_services=past))


def _labelled(results: Sequence[EvaluationResult], variant: str) -> list[EvaluationResult]:
    """Give every result a name of its own."""
    names = labels([result.policy for result in results], variant)
    return [replace(result, policy=name) for result, name in zip(results, names, strict=True)]


def labels(policies: Sequence[str], variant: str) -> list[str]:
    """Distinct names of policies under a variant, some of which may be called alike."""
    taken: dict[str, int] = {}
    named = []
    for policy in policies:
        taken[policy] = taken.get(policy, 0) + 1
        again = taken[policy]
        named.append(label(policy if again == 1 else f"{policy}-{again}", variant))
    return named


@contextmanager
def _progress(console: Console | None, total: int) -> Iterator[Advance]:
    """A progress bar, if there is a console to show it on."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("windows"),
        TimeElapsedColumn(),
        console=console,
        disable=console is None,
        transient=True,
    )
    bar = progress.add_task("evaluating", total=total)
    with progress:
        yield lambda count: progress.advance(bar, count)
