"""Random numbers against SplitMix64 in Python integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.naive import random as naive_random
from tests.naive.random import SplitMix64
from tests.twins.kernel_calls import random_numbers

pytestmark = pytest.mark.property


@given(
    seed=st.integers(0, (1 << 64) - 1),
    stream=st.integers(0, 64),
    counter=st.integers(0, (1 << 62) - 1),
    bound=st.integers(1, (1 << 32) - 1),
)
@example(seed=(1 << 64) - 1, stream=5, counter=0, bound=1)
def test_numbers_equal_their_twin(seed: int, stream: int, counter: int, bound: int) -> None:
    bits, unit, below = random_numbers(np.uint64(seed), stream, counter, bound)
    assert bits == naive_random.random_bits(seed, stream, counter)
    assert unit == naive_random.random_unit(seed, stream, counter)
    assert below == naive_random.random_below(seed, stream, counter, bound)
    assert 0.0 <= unit < 1.0
    assert 0 <= below < bound


@given(seed=st.integers(0, (1 << 64) - 1), stream=st.integers(0, 8))
def test_a_stream_is_the_published_sequence(seed: int, stream: int) -> None:
    key = naive_random.mix(seed + 0x9E3779B97F4A7C15 * stream)
    reference = SplitMix64(key)
    for counter in range(5):
        assert random_numbers(np.uint64(seed), stream, counter, 2)[0] == reference.next()


def test_reference_values() -> None:
    # First outputs of SplitMix64 for the seed 1234567, as published with many implementations.
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
