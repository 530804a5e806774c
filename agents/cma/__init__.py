"""CMA-ES over linear policies that are evaluated wholly inside the compiled engine."""

from agents.cma.evaluator import RankerEvaluator
from agents.cma.policy import LinearRanker
from agents.cma.scorer import LinearScorer
from agents.cma.scorer_evaluator import ScorerEvaluator
from agents.cma.speed import benchmark
from agents.cma.trainer import CMATrainer

__all__ = [
    "CMATrainer",
    "LinearRanker",
    "LinearScorer",
    "RankerEvaluator",
    "ScorerEvaluator",
    "benchmark",
]
