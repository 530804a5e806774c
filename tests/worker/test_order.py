"""Nothing is skipped and nothing is seen twice, however the number of workers changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ValidationError
from orchestrator.worker import DataOrder


@pytest.mark.property
@given(
    items=st.integers(1, 200),
    batch=st.integers(1, 64),
    seed=st.integers(0, 3),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
)
def test_an_epoch_sees_every_item_once(items: int, batch: int, seed: int, sizes: list[int]) -> None:
    order = DataOrder(items, batch, seed=seed)
    for epoch in range(2):
        seen: list[int] = []
        for within in range(order.steps_per_epoch):
            step = epoch * order.steps_per_epoch + within
            size = sizes[step % len(sizes)]
            pieces = [order.piece(step, rank, size) for rank in range(size)]
            assert sum(piece.weight for piece in pieces) == pytest.approx(1.0)
            for piece in pieces:
                assert len(piece.indices) > 0
                seen += piece.indices.tolist() if piece.weight > 0.0 else []
            assert order.epoch(step) == epoch
        assert sorted(seen) == list(range(items))


def test_it_depends_on_seed_epoch_and_step_alone() -> None:
    one, other = DataOrder(100, 8, seed=5), DataOrder(100, 8, seed=5)
    forwards = [one.whole(step).tolist() for step in range(40)]
    backwards = [other.whole(step).tolist() for step in reversed(range(40))]
    assert forwards == backwards[::-1]
    assert forwards[:13] != forwards[13:26]
    assert forwards != [DataOrder(100, 8, seed=6).whole(step).tolist() for step in range(40)]
    plain = DataOrder(100, 8, shuffle=False)
    assert np.concatenate([plain.whole(step) for step in range(13)]).tolist() == list(range(100))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValidationError, match="field 'items' is 0; give at least 1"):
        DataOrder(0, 8)
    with pytest.raises(ValidationError, match="field 'batch' is -1"):
        DataOrder(8, -1)
    with pytest.raises(ValidationError, match="field 'rank' is 2; give one of 0 to 1"):
        DataOrder(8, 8).piece(0, 2, 2)
