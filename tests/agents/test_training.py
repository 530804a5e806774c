"""What trainers share: which candidate is kept, costs in proportion to a rule's, and the course."""

import signal
import time

import numpy as np
import pytest
from numba.core import event

from agents.tracking import NullTracker
from agents.training import (
    HISTORY_COLUMNS,
    Best,
    Budget,
    Course,
    Reference,
    Stopped,
    TableTracker,
    compilation,
    stoppable,
)


class Memory(NullTracker):
    def __init__(self):
        self.rows = []

    def log(self, step, metrics):
        self.rows.append((step, dict(metrics)))


def test_the_latest_candidate_is_kept_unless_it_is_clearly_worse():
    best = Best(tolerance=1.0)
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 1.5, 100)
    assert best.offer("first", base)
    assert best.offer("luckier", base - 0.05)
    noise = rng.normal(0.0, 0.1, 100)
    assert best.offer("similar", base - 0.05 + noise - noise.mean() + 0.005)
    assert not best.offer("worse", base - 0.05 + noise - noise.mean() + 0.03)
    assert best.kept == "similar"
    assert best.lowest.mean() == pytest.approx(base.mean() - 0.05)
    alone = Best(tolerance=1.0)
    assert alone.offer("first", base[:1])
    assert not alone.offer("worse", base[:1] + 1.0)


def test_without_tolerance_only_what_is_better_is_kept():
    best = Best()
    costs = np.array([1.0, 2.0])
    assert best.offer("first", costs)
    assert not best.offer("equal", costs.copy())
    assert not best.offer("a little worse", np.array([1.3, 1.8]))
    assert best.offer("better", np.array([1.3, 1.6]))
    assert best.kept == "better"


def test_hard_windows_do_not_drown_the_others():
    reference = Reference("sjf", np.array([1.0, 99.0]))
    assert reference.relative(np.array([1.0, 99.0])).tolist() == [1 / 51, 99 / 149]
    earned = Reference("fgd", np.array([-1.0, -3.0]))
    assert earned.relative(np.array([[-3.0, -5.0]])).tolist() == [[-1.0, -1.0]]


def test_a_course_goes_on_where_earlier_sittings_stopped():
    tracker = Memory()
    course = Course("search", Budget(100.0), tracker, 99.5)
    reference = Reference("sjf", np.ones(2))
    with course:
        assert not course.over
        course.advance(5, 5)
        assert not course.ended
        course.record(3, {"validation": 2.0, "reference": 1.0}, reference)
        time.sleep(0.6)
        assert course.over
    assert course.history == [entry for _, entry in tracker.rows]
    assert [step for step, _ in tracker.rows] == [3]
    assert course.history[0]["seconds"] >= 99.5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_course_where_it_can_go_on(number):
    before = signal.getsignal(number)
    with Course("search", Budget(None, 10), Memory()) as course:
        assert not course.over
        signal.raise_signal(number)
        assert course.over
        assert course.stopped == number
        with pytest.raises(Stopped):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before
    with pytest.raises(Stopped), stoppable():
        signal.raise_signal(number)


def test_compiling_takes_no_time_of_the_budget():
    with Course("search", Budget(0.5), Memory()) as course:
        with event.trigger_event("numba:compile"), event.trigger_event("numba:compile"):
            time.sleep(0.6)
            assert not course.over
        assert course.seconds < 0.4
        time.sleep(0.6)
        assert course.over


def test_the_limit_that_is_reached_first_ends_a_course():
    budget = Budget(10.0, 200, 4)
    assert budget.spent(5.0, 20, 1) == 0.5
    assert budget.spent(5.0, 160, 1) == 0.8
    assert budget.spent(5.0, 20, 4) == 1.0
    assert Budget(None, 0).spent(0.0, 0, 0) == 1.0
    course = Course("search", Budget(None, None, 2), Memory())
    for generation, ended in ((1, False), (2, True)):
        course.advance(10**9, generation)
        assert course.ended is ended
    assert not course.over


def test_compilation_is_measured_whoever_compiles():
    with compilation() as measured:
        with event.trigger_event("numba:compile"):
            time.sleep(0.05)
        time.sleep(0.05)
    assert 0.05 <= measured.seconds < 0.09


def test_a_course_keeps_its_history_in_a_table(tmp_path):
    path = tmp_path / "history.csv"
    with Course("search", Budget(None, 10), TableTracker(path, Memory())) as course:
        for step, more in enumerate(({}, {"sigma": 0.5})):
            entry = {"validation": 2.0, "reference": 1.0, **more}
            course.record(step, entry, Reference("sjf", np.ones(2)))
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join((*HISTORY_COLUMNS, "sigma"))
    assert len(lines) == 3
