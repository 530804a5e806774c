"""Evaluation: the same windows for every policy, paired statistics, tables and pictures."""

from agents.evaluation.cards import add_to_card, training_card
from agents.evaluation.outcomes import METRICS, EvaluationResult
from agents.evaluation.play import evaluate_policy, evaluate_rule
from agents.evaluation.report import Report, make_report, print_report, write_report
from agents.evaluation.statistics import Comparison, Interval, compare, summarise
from agents.evaluation.suite import Suite, run_suite

__all__ = [
    "METRICS",
    "Comparison",
    "EvaluationResult",
    "Interval",
    "Report",
    "Suite",
    "add_to_card",
    "compare",
    "evaluate_policy",
    "evaluate_rule",
    "make_report",
    "print_report",
    "run_suite",
    "summarise",
    "training_card",
    "write_report",
]
