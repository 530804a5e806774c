from __future__ import annotations

import numpy as np
import pytest

from agents.evaluation.statistics import Sample, compare, summarise
from orchestrator.errors import ValidationError

EIGHT = np.array([8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 107.0])


def pair(mine, theirs, **options):
    a, b = Sample("a", np.array(mine, float)), Sample("b", np.array(theirs, float))
    return compare(a, b, "wait", **options)


def test_mean_and_iqm_by_hand():
    found = summarise(EIGHT)
    assert found.mean.value == 17.0
    assert found.iqm.value == (3 + 4 + 5 + 6) / 4
    assert found.median == 4.5
    assert found.mean.low < 17.0 < found.mean.high
    assert found.iqm.low < 4.5 < found.iqm.high


def test_interval_of_two_windows_by_hand():
    # Resamples of (0, 2) have means 0, 1, 2 with probabilities 1/4, 1/2, 1/4.
    found = summarise(np.array([0.0, 2.0]))
    assert (found.mean.low, found.mean.value, found.mean.high) == (0.0, 1.0, 2.0)


def test_constant_values_have_no_spread():
    found = summarise(np.full(5, 3.0))
    assert (found.mean.low, found.mean.high, found.iqm.low, found.iqm.high) == (3.0, 3.0, 3.0, 3.0)


def test_comparison_by_hand():
    found = pair([1, 2, 3, 4], [2, 2, 6, 2])
    assert found.windows == 4
    assert found.difference.value == -0.5
    assert found.ratio.value == 10 / 12
    assert found.iqm_ratio.value == 2.5 / 2.0
    assert found.won == 0.5
    assert found.tied == 0.25
    assert found.improvement.value == 0.625


def test_more_can_be_better():
    found = pair([1, 2, 3, 4], [2, 2, 6, 2], sign=1)
    assert found.won == 0.25
    assert found.improvement.value == 0.375


def test_pairs_are_drawn_together():
    # Windows differ a hundredfold, the policies by exactly a tenth: only paired draws see that.
    theirs = np.array([1.0, 10.0, 100.0, 1000.0])
    found = pair(0.9 * theirs, theirs)
    assert found.ratio.low == pytest.approx(0.9)
    assert found.ratio.high == pytest.approx(0.9)
    assert found.difference.low < found.difference.value < found.difference.high


def test_equal_policies():
    found = pair(EIGHT, EIGHT)
    assert found.improvement.value == 0.5
    assert found.improvement.low == found.improvement.high == 0.5
    assert found.tied == 1.0
    assert found.ratio.low == found.ratio.high == 1.0


def test_ratio_of_zeros_is_one():
    assert pair([0, 0], [0, 0]).ratio.value == 1.0


def test_the_seed_decides():
    assert summarise(EIGHT, seed=1, draws=50) == summarise(EIGHT, seed=1, draws=50)
    assert summarise(EIGHT, seed=1, draws=50) != summarise(EIGHT, seed=2, draws=50)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        found = summarise(rng.normal(5.0, 1.0, 60), draws=500).mean
        hits += found.low <= 5.0 <= found.high
    assert 180 <= hits <= 199


def test_different_windows_are_refused():
    with pytest.raises(ValidationError, match="evaluate both on the same windows"):
        pair([1, 2], [1, 2, 3])


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0], [2.0]]])
def test_what_is_no_list_of_numbers_is_refused(values):
    with pytest.raises(ValidationError, match="one number for each window"):
        summarise(np.array(values))
