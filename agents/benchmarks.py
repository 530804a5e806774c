"""Suites by kind: evaluations, packings and measurements, each with its tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from agents.bundle import load_bundle
from agents.configs import build_packing_suite, build_speed_suite, build_suite, plain
from agents.evaluation import add_to_card, make_report, print_report, run_suite, write_report
from agents.evaluation.packing import print_packing, run_packing, write_packing
from agents.evaluation.report import Report
from agents.evaluation.series import rule_series
from agents.evaluation.suite import label
from agents.plots import draw_comparison, draw_outcomes, draw_series
from agents.speed import print_speed, run_speed_suite, write_speed
from envs.config import EnvConfig
from envs.scenario import Scenario, playable
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError

__all__ = ["evaluate", "run_benchmark"]


def run_benchmark(cfg: DictConfig, console: Console) -> bool:
    """Run a suite of any kind, ``suite.kind``: an evaluation unless it says otherwise.

    Parameters
    ----------
    cfg : DictConfig
        Of ``conf/benchmark.yaml``. Results are written to ``output``, unless it is null.
    console : Console

    Returns
    -------
    bool
        Whether all holds that the suite demands.

    Raises
    ------
    ConfigurationError
        If there are no suites of that kind.
    """
    kind = cfg.suite.get("kind", "evaluation")
    if kind not in _KINDS:
        raise ConfigurationError(f"suite: 'kind' is '{kind}'; choose from {', '.join(_KINDS)}")
    return _KINDS[kind](cfg, console)


def evaluate(cfg: DictConfig, console: Console) -> bool:
    """Play a suite's windows under its rules and under the policies of bundles.

    ``cfg`` has ``suite``, ``workload``, ``env``, ``scenario``, ``bundle``, ``card``,
    ``processes`` and ``output``, and may have ``history``.
    """
    suite = build_suite(cfg.suite)
    config: EnvConfig = instantiate(cfg.env)
    scenario: Scenario = instantiate(cfg.scenario)
    bundles = plain(cfg.bundle) or []
    bundles = [bundles] if isinstance(bundles, str) else bundles
    policies = [load_bundle(path, config.schema) for path in bundles]
    trace: Trace = instantiate(cfg.workload)
    history = instantiate(cfg.history) if cfg.get("history") else None
    results = run_suite(
        suite, trace, config, policies, console, scenario, history, processes=cfg.processes
    )
    report = make_report(suite, trace, config, results, scenario)
    print_report(report, console)
    if cfg.output is not None:
        folder = Path(cfg.output)
        write_report(report, folder, plain(cfg))
        _draw(report, trace, config, scenario, folder)
        console.print(f"written to {cfg.output}: tables (.csv, .md), summary.json, pictures (.png)")
    if cfg.card:
        for path in bundles:
            add_to_card(Path(path), report)
    return True


def _draw(
    report: Report, trace: Trace, config: EnvConfig, scenario: Scenario, folder: Path
) -> None:
    """Pictures of an evaluation; of every variant, those that a suite has the data for."""
    suite = report.suite
    for variant, pairs in report.comparisons.items():
        end = f"_{variant}.png" if variant else ".png"
        if pairs:
            draw_comparison(folder / f"comparison{end}", report, variant)
        if suite.columns:
            draw_outcomes(folder / f"outcomes{end}", report, variant)
        if suite.series:
            _draw_course(report, variant, trace, config, scenario, folder / f"series{end}")


def _draw_course(
    report: Report, variant: str, trace: Trace, config: EnvConfig, scenario: Scenario, path: Path
) -> None:
    suite, group = report.suite, report.results[variant]
    judged = suite.judged_in(variant, config, trace)
    starts = suite.window_starts(trace, playable(trace, config, scenario))
    wanted = label(suite.series[0], variant)
    shown = next((result for result in group if result.policy == wanted), group[0])
    # The window in the middle: neither the easiest nor the hardest.
    window = int(np.argsort(shown.values[suite.metric])[len(starts) // 2])
    series = [
        rule_series(rule, trace, judged, starts, window, scenario=scenario) for rule in suite.series
    ]
    draw_series(path, series, f"suite {suite.name}, window {window} of {len(starts)}")


def _pack(cfg: DictConfig, console: Console) -> bool:
    suite, trace = build_packing_suite(cfg.suite)
    with console.status("packing") as status:
        results = run_packing(suite, trace, lambda policy: status.update(f"packing by {policy}"))
    print_packing(suite, results, console)
    if cfg.output is not None:
        write_packing(suite, trace, results, Path(cfg.output))
    return True


def _measure(cfg: DictConfig, console: Console) -> bool:
    suite = build_speed_suite(cfg.suite, cfg.traces)
    outcomes = []
    with console.status("measuring") as status:
        for outcome in run_speed_suite(suite):
            outcomes.append(outcome)
            status.update(f"measuring, {len(outcomes)} of {len(suite.measures)} done")
    holds = print_speed(suite, outcomes, console)
    if cfg.output is not None:
        write_speed(suite, outcomes, Path(cfg.output))
    return holds


_KINDS: Mapping[str, Callable[[DictConfig, Console], bool]] = {
    "evaluation": evaluate,
    "packing": _pack,
    "speed": _measure,
}
