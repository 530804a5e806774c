"""CMA-ES over linear rankers that are evaluated wholly inside the compiled engine."""

from agents.cma.evaluator import RankerEvaluator
from agents.cma.policy import LinearRanker
from agents.cma.speed import benchmark
from agents.cma.trainer import CMATrainer

__all__ = ["CMATrainer", "LinearRanker", "RankerEvaluator", "benchmark"]
