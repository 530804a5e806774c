"""An episode that is looked at is the one that was played: metrics, places, and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from envs import SchedulingEnv, Session
from envs.viewing.episode import EpisodeReader, EpisodeView
from envs.viewing.page import episode_data, episode_page
from envs.viewing.series import series_of
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import NodeCode
from tests.envs.cases import CASES, pick_legal
from tests.envs.scaling_cases import SCALING_CASES

_CASES = {**CASES, **SCALING_CASES}
_NAMES_ONLY = ("http://www.w3.org/2000/svg",)


def _seen(name: str, seed: int = 1, steps: int = 10_000) -> tuple[Session, EpisodeView]:
    """An episode of random legal actions, up to its end or to some step."""
    session = _CASES[name].session(1)
    reader, rng = EpisodeReader(session), np.random.default_rng(seed)
    session.reseed(np.array([seed], np.uint64))
    session.reset()
    while steps > 0 and not (session.buffers.terminated[0] or session.buffers.truncated[0]):
        session.step(pick_legal(session.buffers.mask, rng))
        reader.keep_up()
        steps -= 1
    return session, reader.read("random", "an episode")


@pytest.mark.parametrize("name", ["ordering", "ordering-backfill", "cluster", "cluster-incidents"])
@pytest.mark.parametrize("seed", [1, 2])
def test_series_end_in_the_metrics_of_reports(name: str, seed: int) -> None:
    session, seen = _seen(name, seed)
    metrics, series = session.episode_metrics(0), series_of(seen)
    assert (seen.jobs["completed"] == 1).all()
    assert (np.diff(series.time_ms) > 0).all()
    assert (series.waiting >= 0).all()
    assert (series.running >= 0).all()
    assert (series.busy >= 0).all()
    assert (series.busy <= seen.capacity.sum()).all()
    last = np.searchsorted(series.time_ms, seen.jobs["end_ms"].max())
    assert series.waiting[last:].max() == series.running[last:].max() == 0
    found = (series.slowdown[-1], series.wait_s[-1])
    assert found == pytest.approx((metrics["bounded_slowdown"], metrics["wait"]))
    if not _CASES[name].befalls:  # what is saved while its node drains a row does not count
        assert series.utilisation[last] == pytest.approx(metrics["utilisation"])


@pytest.mark.parametrize("name", ["ordering", "cluster-incidents", *SCALING_CASES])
def test_bars_are_what_runs_hold_and_never_cover_each_other(name: str) -> None:
    _, seen = _seen(name)
    runs, bars = seen.runs, seen.bars
    held = np.bincount(bars["run"], bars["size"], minlength=len(runs))
    lasting = runs["end_ms"] > runs["start_ms"]
    np.testing.assert_array_equal(held[lasting], runs["units"][lasting])
    assert (bars["first"] + bars["size"] <= seen.capacity[bars["node"]]).all()
    start, end = (runs[name][bars["run"]] for name in ("start_ms", "end_ms"))
    for k in range(len(bars)):
        if end[k] == start[k]:
            continue
        beside = (bars["node"] == bars["node"][k]) & (start < end[k]) & (end > start[k])
        beside &= bars["first"] < bars["first"][k] + bars["size"][k]
        beside &= bars["first"] + bars["size"] > bars["first"][k]
        assert np.flatnonzero(beside & (end > start)).tolist() == [k]


def test_nodes_that_fail_are_seen() -> None:
    session, seen = _seen("cluster-incidents")
    down = seen.outages[seen.outages["state"] == NodeCode.DOWN]
    assert len(down) > 0
    assert (down["end_ms"] > down["start_ms"]).all()
    failures = session.state.node[0, :4]["failures"]
    assert np.bincount(down["node"], minlength=4).tolist() == failures.tolist()
    assert sum(event.what == "node down" for event in seen.events) == failures.sum()


def test_the_page_asks_nobody_and_holds_the_episode() -> None:
    _, first = _seen("cluster-incidents", 1)
    _, second = _seen("cluster-incidents", 2)
    other = replace(second, policy="</script><b>other")
    page = episode_page([first, other])
    assert page == episode_page([first, other])
    text = page
    for name in _NAMES_ONLY:
        text = text.replace(name, "")
    assert re.findall(r"(?:https?:)?//[\w-]+\.\w+", text) == []
    assert not re.search(r"^(?:import|export) ", page, re.MULTILINE)
    assert "{{" not in page
    assert page.count("</script>") == 3
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    told = json.loads(data[1])
    assert [one["policy"] for one in told] == ["random", "</script><b>other"]
    assert told[0] == episode_data(first)
    assert len(told[0]["events"]) == len(first.events)
    assert max(told[0]["runs"]["end"]) == max(told[0]["jobs"]["end"]) == told[0]["end"]
    with pytest.raises(ConfigurationError, match="no episode"):
        episode_page([])


def test_an_environment_renders_its_episode_as_a_page() -> None:
    env = CASES["cluster"].make(render_mode="html")
    assert isinstance(env, SchedulingEnv)
    env.reset(seed=3)
    rng, jobs = np.random.default_rng(0), []
    for _ in range(25):
        env.step(pick_legal(env.action_masks()[None], rng)[0])
        page = env.render()
        assert isinstance(page, str)
        assert page.startswith("<!doctype html>")
        data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
        assert data is not None
        told = json.loads(data[1])[0]
        jobs.append(len(told["jobs"]["id"]))
        assert told["end"] == env.session.now_ms[0] - env.session.state.rows[0]["begin_ms"]
        assert told["series"]["time"][-1] == told["end"]
    assert jobs == sorted(jobs)
    assert jobs[-1] > jobs[0]
    env.reset(seed=4)
    assert "&lt;" not in str(env.render())


def test_what_was_overwritten_is_not_made_up() -> None:
    session = CASES["cluster"].session(1)
    reader = EpisodeReader(session)
    session.reset()
    session.state.rows["effect_count"] += 100_000
    with pytest.raises(ConfigurationError, match="keep_up"):
        reader.read("lost")
