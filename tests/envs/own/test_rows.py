"""One's own terms and features in rows: what they add up to, and what the checks find wrong."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.bundle import describe_environment, restore_environment
from agents.linear.evaluate import RankerEvaluator
from envs import JOB_ORDERING, RewardConfig, RowsView
from envs.testing import check_feature, check_generator, check_reward_term
from envs.testing.play import SMALL, play, small_session, small_trace
from orchestrator.errors import ConfigurationError, ContractError

_ME = __name__


def job_seconds(view: RowsView) -> NDArray[np.float64]:
    """What the built-in term charges for, by the row's own count."""
    return view.row["job_ms"] / 1000.0


class Fits:
    """A built-in feature of the queue once more: jobs of processors that fit now."""

    of = "queue"

    def __call__(self, view: RowsView) -> NDArray[np.float64]:
        rows = np.arange(len(view.now_ms))[:, np.newaxis]
        asked = view.request["cpu_milli"][rows, view.queue]
        return (asked <= view.row["free_units"][:, np.newaxis]).astype(float)


class Free:
    """A built-in feature of the whole: the free share."""

    of, name = "global", "free_again"

    def __call__(self, view: RowsView) -> NDArray[np.float64]:
        return view.row["free_units"] / view.row["nominal_units"]


@pytest.mark.parametrize("form", ["dense", "terminal"])
@pytest.mark.parametrize("limit", [0, 13])
def test_a_term_pays_as_the_built_in_one_of_the_same_metric(form: str, limit: int) -> None:
    config = replace(SMALL["cluster"], step_limit=limit)
    paid = []
    for terms in ({"completion_time": 0.3, "wait": 1.0}, {job_seconds: 0.3, "wait": 1.0}):
        session = small_session(replace(config, reward=RewardConfig(terms, form)), 3)
        paid.append(np.array(list(play(session, "test"))))
    np.testing.assert_allclose(paid[1], paid[0], rtol=1e-9, atol=1e-9)
    assert (paid[0] != 0).any()


def test_features_are_the_last_columns_of_their_sets() -> None:
    config = replace(SMALL["ordering"], features=(Fits, Free))
    session, plain = small_session(config, 3), small_session(SMALL["ordering"], 3)
    assert session.schema.queue[-1] == "fits"
    steps = zip(play(session, "test"), play(plain, "test"), strict=True)
    fits = session.schema.queue.index("fits_now")
    for reward, same in steps:
        seen, bare = session.observation(), plain.observation()
        np.testing.assert_array_equal(reward, same)
        np.testing.assert_array_equal(seen["queue"][..., :-1], bare["queue"])
        np.testing.assert_array_equal(seen["queue"][..., -1], bare["queue"][..., fits])
        np.testing.assert_array_equal(seen["global"][:, -1], bare["global"][:, 0])


def test_they_go_along_with_copies_manifests_and_digests() -> None:
    terms = {f"{_ME}:job_seconds": 1.0}
    config = replace(SMALL["ordering"], features=(Fits,), reward=RewardConfig(terms))
    assert config.features == (f"{_ME}:Fits",)
    assert restore_environment(describe_environment(config)) == config
    assert config.schema.digest != replace(config, features=()).schema.digest
    session = small_session(config, 2)
    whole = play(session, "test")
    for _ in range(7):
        next(whole)
    for other in (deepcopy(session), pickle.loads(pickle.dumps(session))):
        actions = session.masks().argmax(axis=1).astype(np.int64)
        mine = deepcopy(session)
        for each in (mine, other):
            each.step(actions)
        np.testing.assert_array_equal(other.buffers.reward, mine.buffers.reward)
        np.testing.assert_array_equal(other.buffers.queue, mine.buffers.queue)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ("a:B", "'features' is 'a:B'; give a tuple"),
        ((f"{_ME}:job_seconds",), "'of' is None; say which set it describes"),
        ((Fits, Fits), "'queue' has a 'fits' already"),
        ((f"{_ME}:Victims",), "describes 'victims', which this environment does"),
    ],
)
def test_features_that_make_no_sense_are_refused(features: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(JOB_ORDERING, features=features)


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ({"terms": {f"{_ME}:nothing": 1.0}}, "has no 'nothing'"),
        ({"terms": {job_seconds: 1.0}, "reference": "sjf"}, "there are none; leave"),
    ],
)
def test_terms_that_make_no_sense_are_refused(reward: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RewardConfig(**reward)


class Victims(Free):
    of = "victims"


def test_policies_that_are_compiled_do_without() -> None:
    config = replace(SMALL["ordering"], features=(Free,))
    with pytest.raises(ConfigurationError, match=r"does not call Python: leave out .*Free"):
        RankerEvaluator(small_trace(config), config)


def window_and_queue(view: RowsView) -> NDArray[np.float64]:
    """The window that a row plays, and 100 for every job that it shows."""
    return view.start_index + 100.0 * (view.queue >= 0).sum(axis=1)


@pytest.mark.parametrize("kind", ["ordering", "cluster"])
def test_who_is_played_by_a_rule_is_shown_nothing_of_what_was_before(kind: str) -> None:
    config = replace(SMALL[kind], reward=RewardConfig({window_and_queue: 1.0}))
    session, fresh = small_session(config, 3), small_session(config, 3)
    session.reset()
    session.replay("sjf", np.array([2, 0, 1]))
    assert [session.episode_metrics(e)["objective"] for e in range(3)] == [2.0, 0.0, 1.0]
    session.reset()
    session.begin(np.array([1, 2, 0]))
    assert [session.own.cost(e) for e in range(3)] == [1.0, 2.0, 0.0]
    for each in (session, fresh):
        each.reseed(np.arange(3, dtype=np.uint64))
        each.reset(windows=np.arange(3))
    np.testing.assert_equal(session.observation(), fresh.observation())


def test_a_row_that_is_rolled_out_is_the_only_one_that_pays() -> None:
    reward = RewardConfig({window_and_queue: 1.0})
    session = small_session(replace(SMALL["cluster"], reward=reward, features=(Free,)), 2)
    session.reset()
    session.buffers.globals[:, -1] = 7.0
    session.roll_out(0, "sjf")
    assert session.buffers.metrics[0, -1] == session.own.cost(0)
    assert (session.buffers.metrics[1, -1], session.buffers.reward[1]) == (0.0, 0.0)
    assert session.buffers.globals[0, -1] <= 1.0
    assert session.buffers.globals[1, -1] == 7.0


# --- what the checks find ------------------------------------------------------------------------


def _moving(view: RowsView) -> NDArray[np.float64]:
    return np.random.default_rng().random(len(view.now_ms))


def _together(view: RowsView) -> NDArray[np.float64]:
    return job_seconds(view) / max(len(view.now_ms), 1)


def _flat(view: RowsView) -> NDArray[np.float64]:
    return job_seconds(view)[:, np.newaxis]


def _endless(view: RowsView) -> NDArray[np.float64]:
    return np.log(job_seconds(view) - 1e300)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    ("term", "words"),
    [
        (_moving, "said something else when asked again"),
        (_together, "says something else of a row when others are beside it"),
        (_flat, "gave shape"),
        (_endless, "gave a value that is not finite"),
    ],
)
def test_terms_that_break_their_promises_are_found(term: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check_reward_term(term, SMALL["ordering"])


class Huge(Free):
    def __call__(self, view: RowsView) -> NDArray[np.float64]:
        return view.now_ms * 1.0


class Prophet(Free):
    """The processors that all jobs ask for, those still to come included."""

    def __call__(self, view: RowsView) -> NDArray[np.float64]:
        return np.log1p(view.request["workers"].sum(axis=1))


class Fixed(Free):
    """About places, not about jobs."""

    of = "queue"

    def __call__(self, view: RowsView) -> NDArray[np.float64]:
        return np.broadcast_to(np.arange(view.queue.shape[1]) / 10, view.queue.shape)


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        (Huge, "drowns all other features"),
        (Prophet, "knows the future"),
        (Fixed, "does not follow its entities"),
    ],
)
def test_features_that_break_their_promises_are_found(feature: type, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check_feature(feature)


def test_what_is_true_is_hidden_from_features_and_nothing_can_be_written() -> None:
    session = small_session(replace(SMALL["cluster"], features=(Free,)), 2)
    session.reset()
    views = session.own._views
    assert "duration_ms" in (views.terms.request.dtype.names or ())
    assert "duration_ms" not in (views.features.request.dtype.names or ())
    for name in ("queue_rate", "num_incidents", "next_incident"):
        assert name in (views.terms.row.dtype.names or ())
        assert name not in (views.features.row.dtype.names or ())
    with pytest.raises(ValueError, match="read-only"):
        views.features.request["workers"][0, 0] = 1


def always_the_same(jobs: int, seed: int) -> Any:
    return small_trace(SMALL["ordering"])


def test_a_generator_whose_seed_means_nothing_is_found() -> None:
    with pytest.raises(ContractError, match="draws the same jobs for another seed"):
        check_generator(always_the_same, jobs=3)
