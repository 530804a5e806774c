"""Random numbers of policies are those of the kernels."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernels.state.codes import Stream
from orchestrator.scheduling.zoo.rounds import uniforms
from tests.naive import random as naive_random


@given(
    seed=st.integers(0, 2**64 - 1),
    stream=st.sampled_from(Stream),
    first=st.integers(0, 2**40),
    count=st.integers(0, 9),
)
def test_they_are_of_the_seed_the_stream_and_the_counter(
    seed: int, stream: Stream, first: int, count: int
) -> None:
    expected = [naive_random.random_unit(seed, stream, first + i) for i in range(count)]
    assert uniforms(seed, stream, first, count).tolist() == expected
