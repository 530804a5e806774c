from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from envs.workloads import WindowSplit
from orchestrator.errors import ConfigurationError

PARTS = ("train", "validation", "test")


@st.composite
def splits(draw: st.DrawFn) -> WindowSplit:
    jobs = draw(st.integers(1, 400))
    cuts = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    train, validation = cuts[0], cuts[1] - cuts[0]
    pairs = draw(st.lists(st.tuples(st.integers(0, jobs - 1), st.integers(1, 30)), max_size=4))
    exclude = tuple((start, min(jobs, start + length)) for start, length in pairs)
    return WindowSplit(jobs, train, validation, 1.0 - train - validation, exclude)


@pytest.mark.property
@settings(max_examples=300, deadline=None)
@given(split=splits())
def test_regions_tile_the_trace(split: WindowSplit) -> None:
    edges = [split.region(part) for part in PARTS]
    assert edges[0][0] == 0
    assert edges[-1][1] == split.jobs
    assert [edge[1] for edge in edges[:-1]] == [edge[0] for edge in edges[1:]]
    assert all(low <= high for low, high in edges)


@pytest.mark.property
@settings(max_examples=300, deadline=None)
@given(split=splits(), length=st.integers(1, 40), seed=st.integers(0, 1000))
def test_windows_stay_inside_and_parts_share_no_job(
    split: WindowSplit, length: int, seed: int
) -> None:
    excluded = {job for start, stop in split.exclude for job in range(start, stop)}
    seen: dict[str, set[int]] = {}
    for part in PARTS:
        low, high = split.region(part)
        possible = [
            start
            for start in range(low, high - length + 1)
            if not excluded & set(range(start, start + length))
        ]
        if not possible:
            with pytest.raises(ConfigurationError, match=f"the {part} part"):
                split.starts(part, 5, length, seed)
            continue
        assert split.admissible(part, length).tolist() == possible
        starts = split.starts(part, 5, length, seed).tolist()
        assert len(starts) == 5
        assert set(starts) <= set(possible)
        seen[part] = {job for start in starts for job in range(start, start + length)}
    assume(len(seen) > 1)
    parts = list(seen)
    for i, part in enumerate(parts):
        for other in parts[i + 1 :]:
            assert not seen[part] & seen[other]


def test_starts_are_deterministic_and_come_in_rounds() -> None:
    split = WindowSplit(1000)
    assert split.region("train") == (0, 600)
    assert split.region("validation") == (600, 800)
    assert split.region("test") == (800, 1000)
    starts = split.starts("test", 250, 101, 7)
    assert sorted(starts[:100]) == list(range(800, 900))
    assert sorted(starts[100:200]) == list(range(800, 900))
    np.testing.assert_array_equal(starts, split.starts("test", 250, 101, 7))
    np.testing.assert_array_equal(starts[:30], split.starts("test", 30, 101, 7))
    assert not np.array_equal(starts, split.starts("test", 250, 101, 8))
    assert len(split.starts("train", 0, 10, 0)) == 0


def test_a_part_may_be_the_whole_trace() -> None:
    split = WindowSplit(50, 0.0, 0.0, 1.0)
    assert split.admissible("test", 50).tolist() == [0]
    with pytest.raises(ConfigurationError, match="train part has 0"):
        split.starts("train", 1, 1, 0)


def test_clear_errors() -> None:
    with pytest.raises(ConfigurationError, match=r"test part has 20 .* window of 21"):
        WindowSplit(100).starts("test", 1, 21, 0)
    with pytest.raises(ConfigurationError, match="excluded"):
        WindowSplit(100, exclude=((85, 90),)).starts("test", 1, 15, 0)
    with pytest.raises(ConfigurationError, match="unknown part 'tset'"):
        WindowSplit(100).starts("tset", 1, 5, 0)
    with pytest.raises(ConfigurationError, match="sum to 1"):
        WindowSplit(100, 0.5, 0.2, 0.2)
    with pytest.raises(ConfigurationError, match=r"'test' is -0\.5"):
        WindowSplit(100, 1.0, 0.5, -0.5)
    with pytest.raises(ConfigurationError, match="'jobs' is 0"):
        WindowSplit(0)
    with pytest.raises(ConfigurationError, match=r"\[90, 101\)"):
        WindowSplit(100, exclude=((90, 101),))
    with pytest.raises(ConfigurationError, match="length is 0"):
        WindowSplit(100).starts("test", 1, 0, 0)
    with pytest.raises(ConfigurationError, match="seed is -1"):
        WindowSplit(100).starts("test", 1, 5, -1)


def test_lists_of_a_configuration_are_accepted() -> None:
    split = WindowSplit(100, exclude=[[10, 20]])  # type: ignore[arg-type]
    assert split == WindowSplit(100, exclude=((10, 20),))


@pytest.mark.parametrize("jobs", [2.5, float("nan"), "10", None, True])
def test_what_is_no_whole_number_is_refused(jobs: object) -> None:
    with pytest.raises(ConfigurationError, match=r"'jobs' is .*; give a whole number"):
        WindowSplit(jobs)  # type: ignore[arg-type]
    split = WindowSplit(10)
    for call in (
        lambda: split.admissible("train", jobs),  # type: ignore[arg-type]
        lambda: split.starts("train", jobs, 2, 0),  # type: ignore[arg-type]
        lambda: split.starts("train", 1, 2, jobs),  # type: ignore[arg-type]
        lambda: WindowSplit(10, exclude=((0, jobs),)),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError, match="give a whole number"):
            call()
    assert len(split.starts("train", np.int64(3), np.int64(2), 0)) == 3
