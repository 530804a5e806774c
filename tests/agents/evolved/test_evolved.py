"""Formulas say what they compute, stay finite and whole, and evolve; a run goes on where it was."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.bundle import load_bundle
from agents.evaluation.play import evaluate_policy, evaluate_rule
from agents.evolved.formula import OPERATORS, Formula, FormulaRanker
from agents.evolved.search import EvolvedTrainer, breed, change, cross, grow
from agents.evolved.settings import EvolvedSettings
from agents.problem import Problem
from agents.tracking import NullTracker
from envs.config import CLUSTER, EnvConfig
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import DEFAULT_NAMES

_F = len(DEFAULT_NAMES)
_REQUEST = DEFAULT_NAMES.index("log_request")
_SJF = Formula((_F + 6, _REQUEST), (0.0, 0.0))  # the negative of the time asked for


@pytest.fixture(scope="module")
def problem() -> Problem:
    config = EnvConfig(backfill=True, episode_jobs=64)
    return Problem(lublin_feitelson(4000, 3, load=1.2), config, evaluation_jobs=64, seed=2)


def _trainer(**changed: object) -> EvolvedTrainer:
    settings: dict[str, Any] = {
        "budget_seconds": None,
        "generations": 4,
        "population": 12,
        "windows": 4,
        "window_jobs": 64,
        "validate_every": 2,
        "validation_windows": 6,
    }
    return EvolvedTrainer(**settings | changed)


@given(st.integers(0, 2**32 - 1), st.integers(3, 40))
def test_formulas_stay_whole_finite_and_as_short_as_they_may_be(seed: int, symbols: int) -> None:
    rng = np.random.default_rng(seed)
    mother, father = grow(rng, symbols), grow(rng, symbols)
    features = rng.normal(0.0, 10.0 ** rng.integers(-3, 5), (3, 5, _F)).astype(np.float32)
    for formula in (mother, cross(rng, mother, father, symbols), change(rng, mother, symbols)):
        assert 1 <= len(formula) <= symbols
        scores = formula(features)
        assert scores.shape == (3, 5)
        assert np.isfinite(scores).all()
        # A job's score depends on nobody else's.
        assert np.array_equal(formula(features[1:2, 2:4]), scores[1:2, 2:4])


@given(st.integers(0, 2**32 - 1))
def test_what_is_written_is_what_is_computed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plain = [code for code, one in enumerate(OPERATORS) if one.name in ("add", "multiply")]
    while True:
        formula = grow(rng, 15)
        used = {code - _F for code in formula.codes if code >= _F}
        if used <= set(plain):
            break
    features = rng.normal(size=_F)
    names = dict(zip(DEFAULT_NAMES, features.tolist(), strict=True))
    written = eval(str(formula), {"__builtins__": {}}, names)
    assert float(formula(features)) == pytest.approx(written, rel=0.02, abs=0.02)  # three digits


@pytest.mark.parametrize(
    ("codes", "constants"),
    [((), ()), ((_F,), (0.0,)), ((0, 0), (0.0, 0.0)), ((99,), (0.0,)), ((0,), (np.nan,))],
)
def test_what_is_no_formula_is_refused(
    codes: tuple[int, ...], constants: tuple[float, ...]
) -> None:
    with pytest.raises(ConfigurationError, match="no formula"):
        Formula(codes, constants)


def test_the_formula_of_a_rule_costs_what_the_rule_costs(problem: Problem) -> None:
    windows = problem.judging_windows("test", 8)
    found = evaluate_policy(FormulaRanker(_SJF), windows, keep_jobs=0).values["bounded_slowdown"]
    rule = evaluate_rule("sjf", windows, keep_jobs=0).values["bounded_slowdown"]
    # Features are shorter numbers than times, so that near ties may go the other way.
    assert found.mean() == pytest.approx(rule.mean(), rel=0.02)


def test_the_best_live_on_and_the_better_ones_have_children() -> None:
    rng, settings = np.random.default_rng(0), EvolvedSettings(population=40, elite=3)
    population = [grow(rng, 25) for _ in range(40)]
    fitness = rng.permutation(40) - 100.0 * np.array([len(formula) for formula in population])
    children = breed(rng, population, fitness, settings)
    assert children[:3] == [population[int(k)] for k in np.argsort(fitness)[:3]]
    assert len(children) == 40
    # Of so many the best is always one: who has it twice for a parent has nothing else.
    sure = replace(settings, crossover=1.0, tournament=1000)
    best = population[int(fitness.argmin())]
    assert len(best) > 10
    for child in breed(rng, population, fitness, sure)[3:]:
        assert set(child.codes) <= set(best.codes)


def test_training_improves_on_where_it_began_and_leaves_a_bundle(problem, tmp_path) -> None:
    result = _trainer(generations=6, population=24).train(problem, NullTracker(), tmp_path)
    first, last = result.history[0], result.history[-1]
    assert last["score"] <= first["score"]
    policy = load_bundle(result.bundle, problem.config.schema)
    assert isinstance(policy, FormulaRanker)
    windows = problem.judging_windows("test", 4)
    kept = [evaluate_policy(p, windows, keep_jobs=0).values for p in (policy, result.policy)]
    assert np.array_equal(kept[0]["bounded_slowdown"], kept[1]["bounded_slowdown"])
    manifest = json.loads((result.bundle / "manifest.json").read_text())
    assert manifest["model"]["formula"] == str(policy.formula)


def test_a_run_goes_on_as_if_it_had_not_stopped(problem, tmp_path) -> None:
    whole = _trainer().train(problem, NullTracker(), tmp_path / "whole")
    _trainer(generations=2).train(problem, NullTracker(), tmp_path / "parts")
    rest = _trainer(resume=True).train(problem, NullTracker(), tmp_path / "parts")
    kept = [load_bundle(run.bundle, problem.config.schema) for run in (rest, whole)]
    assert isinstance(kept[0], FormulaRanker)
    assert isinstance(kept[1], FormulaRanker)
    assert kept[0].formula == kept[1].formula
    assert [entry["generation"] for entry in rest.history] == [2.0, 4.0]
    assert rest.score == whole.score


def test_a_checkpoint_of_another_task_is_refused(problem, tmp_path) -> None:
    _trainer(generations=2).train(problem, NullTracker(), tmp_path)
    with pytest.raises(ConfigurationError, match=r"agent\.symbols"):
        _trainer(resume=True, symbols=9).train(problem, NullTracker(), tmp_path)


def test_where_more_than_a_job_is_asked_for_there_are_no_formulas(problem, tmp_path) -> None:
    other = replace(problem, config=CLUSTER)
    with pytest.raises(ConfigurationError, match="rank jobs"):
        _trainer().train(other, NullTracker(), tmp_path)


@pytest.mark.parametrize(
    ("field", "value"), [("population", 2), ("crossover", 1.5), ("metric", "utilisation")]
)
def test_settings_that_cannot_be_are_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=field):
        _trainer(**{field: value})
