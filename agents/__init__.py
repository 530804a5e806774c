"""Learning: problems, trainers, evaluation, and the policy bundles that the orchestrator runs.

The names below are loaded when they are first used, so that importing one part, the evaluation for
example, does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.build import (
        build_problem,
        build_suite,
        config_dir,
        elastic_workload,
        env_config,
        failure_model,
        fleet_plan,
        scenario_config,
        service_mix,
    )
    from agents.bundle import (
        BundleError,
        CardTable,
        EvaluationCard,
        Manifest,
        Origin,
        PolicyParts,
        load_bundle,
        read_card,
        read_manifest,
        restore_environment,
        save_bundle,
        write_card,
    )
    from agents.deploy import BundlePolicy
    from agents.evaluation.outcomes import METRICS, EvaluationResult
    from agents.evaluation.play import ZOO, evaluate_policy, evaluate_rule, evaluate_zoo
    from agents.evaluation.pods import PackingResult, PackingSuite, run_packing
    from agents.evaluation.report import Report, make_report, print_report, write_report
    from agents.evaluation.series import WindowSeries, rule_series
    from agents.evaluation.statistics import (
        Comparison,
        Interval,
        Sample,
        Summary,
        compare,
        summarise,
    )
    from agents.evaluation.suite import Published, Suite, run_suite
    from agents.linear.policy import LinearRanker, LinearScorer
    from agents.linear.train import CMATrainer
    from agents.ppo.train import PPOTrainer
    from agents.problem import BatchPolicy, Problem, Windows
    from agents.tracking import NullTracker, TensorBoardTracker, Tracker, WandbTracker
    from agents.training import TrainingResult

_HOMES = {
    "agents.problem": ("BatchPolicy", "Problem", "Windows"),
    "agents.training": ("TrainingResult",),
    "agents.ppo.train": ("PPOTrainer",),
    "agents.linear.train": ("CMATrainer",),
    "agents.linear.policy": ("LinearRanker", "LinearScorer"),
    "agents.tracking": ("NullTracker", "TensorBoardTracker", "Tracker", "WandbTracker"),
    "agents.evaluation.play": ("ZOO", "evaluate_policy", "evaluate_rule", "evaluate_zoo"),
    "agents.evaluation.outcomes": ("METRICS", "EvaluationResult"),
    "agents.evaluation.statistics": (
        *("Comparison", "Interval", "Sample", "Summary", "compare", "summarise"),
    ),
    "agents.evaluation.suite": ("Published", "Suite", "run_suite"),
    "agents.evaluation.report": ("Report", "make_report", "print_report", "write_report"),
    "agents.evaluation.series": ("WindowSeries", "rule_series"),
    "agents.evaluation.pods": ("PackingResult", "PackingSuite", "run_packing"),
    "agents.bundle": (
        *("BundleError", "CardTable", "EvaluationCard", "Manifest", "Origin", "PolicyParts"),
        *("load_bundle", "read_card", "read_manifest", "restore_environment", "save_bundle"),
        "write_card",
    ),
    "agents.deploy": ("BundlePolicy",),
    "agents.build": (
        *("build_problem", "build_suite", "config_dir", "elastic_workload", "env_config"),
        *("failure_model", "fleet_plan", "scenario_config", "service_mix"),
    ),
}

__all__ = [
    "METRICS",
    "ZOO",
    "BatchPolicy",
    "BundleError",
    "BundlePolicy",
    "CMATrainer",
    "CardTable",
    "Comparison",
    "EvaluationCard",
    "EvaluationResult",
    "Interval",
    "LinearRanker",
    "LinearScorer",
    "Manifest",
    "NullTracker",
    "Origin",
    "PPOTrainer",
    "PackingResult",
    "PackingSuite",
    "PolicyParts",
    "Problem",
    "Published",
    "Report",
    "Sample",
    "Suite",
    "Summary",
    "TensorBoardTracker",
    "Tracker",
    "TrainingResult",
    "WandbTracker",
    "WindowSeries",
    "Windows",
    "build_problem",
    "build_suite",
    "compare",
    "config_dir",
    "elastic_workload",
    "env_config",
    "evaluate_policy",
    "evaluate_rule",
    "evaluate_zoo",
    "failure_model",
    "fleet_plan",
    "load_bundle",
    "make_report",
    "print_report",
    "read_card",
    "read_manifest",
    "restore_environment",
    "rule_series",
    "run_packing",
    "run_suite",
    "save_bundle",
    "scenario_config",
    "service_mix",
    "summarise",
    "write_card",
    "write_report",
]

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)
