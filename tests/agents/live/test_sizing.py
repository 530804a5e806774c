"""Bundles that size services and fleet decide live, with what an environment would show them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np

from agents.deploy import BundlePolicy
from agents.live.decisions import reproduce
from orchestrator.autoscaler import ScalingPlan
from orchestrator.autoscaler.fleet import BY_POLICY
from orchestrator.deployment import Considered
from orchestrator.engine.snapshot import Snapshot
from orchestrator.foundations.sqlite import SQLiteLog
from tests.agents.live.sizing_cases import CONFIG, KEEPS_USE, Sized, bundle, scorer

_PUBLISHED = Path(__file__).resolve().parents[3] / "results" / "autoscaling" / "cma"


async def test_a_bundle_adds_replicas_as_requests_come(tmp_path: Path) -> None:
    """Real requests through the mesh; the built-in scaler would want another number."""
    cluster = Sized()
    await cluster.deploy("chat")
    await cluster.deployment.activate(bundle(tmp_path / "bundle", scorer(KEEPS_USE)))
    await cluster.orchestrator.auto_scale_cluster()

    asked = set[asyncio.Task[object]]()

    for k in range(4 * 60):  # four requests a second for a minute
        question = cluster.orchestrator.route_request("chat", {"prompt": "hello"})
        asked.add(asyncio.ensure_future(question))
        await cluster.clock.advance_to(cluster.clock.now_ms() + 250)
        if k % 60 == 59:
            await cluster.orchestrator.auto_scale_cluster()
            cluster.deployment.drain()
    assert cluster.replicas("chat") == 3  # 4 / (3 * 2) is below 70 %, and 4 / (2 * 2) above
    found = cluster.deployment.status()["candidate"]
    assert found["verdicts"]["taken"] >= 4
    assert cluster.orchestrator.sized_by_policy == {"chat"}
    for _ in range(3):
        await cluster.tick()
    assert cluster.replicas("chat") == 1
    cluster.close()


async def test_nodes_are_ordered_and_given_up_as_a_bundle_decides(tmp_path: Path) -> None:
    """One node more where the fleet would be used by 30 % with it, one fewer below 35 %."""
    weights = {
        "head:wait": 0.3,
        "scale_out:load_after": 1.0,
        "head:scale_in": 1.0,
        "scale_in:load_after": -2.0,
        "head:fewer_replicas": -9.0,
        "head:more_replicas": -9.0,
    }
    cluster = Sized(nodes=1, plan=ScalingPlan(4.0, min_size=1, max_size=3, down_window_s=0.0))
    await cluster.deploy("chat", num_workers=1)
    await cluster.deployment.activate(bundle(tmp_path / "bundle", scorer(weights)))
    await cluster.tick()
    await cluster.manager.scale("chat", 4)
    sizes = []
    for _ in range(12):
        await cluster.tick()
        sizes.append(cluster.orchestrator._fleet.size)
    assert max(sizes) == 3  # not more, whatever it wants
    assert len(cluster.orchestrator.nodes) == 3
    last = cluster.orchestrator.get_cluster_status()["scaling"]["last_decision"]
    assert last["reason"].startswith(BY_POLICY)
    await cluster.manager.scale("chat", 1)
    for _ in range(12):
        await cluster.tick()
    assert len(cluster.orchestrator.nodes) == 1
    cluster.close()


async def test_without_a_provisioner_no_node_is_offered(tmp_path: Path) -> None:
    cluster = Sized(provisioner=False)
    await cluster.deploy("chat")
    greedy = scorer({"head:scale_out": 5.0, "head:scale_in": 5.0, "head:more_replicas": 1.0})
    await cluster.deployment.activate(bundle(tmp_path / "bundle", greedy))
    await cluster.tick()
    await cluster.tick(chat=1.0)
    assert cluster.replicas("chat") == 6  # as many as it may have
    assert list(cluster.orchestrator.nodes) == ["n0", "n1"]
    assert cluster.deployment.status()["mode"] == "active"
    cluster.close()


class Moody(BundlePolicy):
    """Raises an error whenever it likes to."""

    fails = False

    def consider(self, snapshot: Snapshot) -> Considered:
        if self.fails:
            raise ArithmeticError("not today")
        return super().consider(snapshot)


async def test_the_autoscaler_takes_over_when_the_rule_does(tmp_path: Path) -> None:
    """At the same tick: a late answer, and then a breach, leave nothing undecided."""
    cluster = Sized(load=Moody.load)
    await cluster.deploy("chat")
    lazy = bundle(tmp_path / "bundle", scorer({"head:wait": 5.0}))
    await cluster.deployment.activate(lazy)
    await cluster.tick()
    await cluster.tick(chat=4.0)
    assert cluster.replicas("chat") == 1  # it waits, and so does everybody
    Moody.fails = True
    await cluster.tick(chat=4.0)
    Moody.fails = False
    assert cluster.replicas("chat") == 3  # 4 / (2 * 0.7)
    assert cluster.deployment.status()["mode"] == "active"
    assert cluster.orchestrator.sized_by_policy == frozenset()
    await cluster.deployment.fall_back("it is late")
    await cluster.tick(chat=1.0)
    assert cluster.replicas("chat") == 1
    cluster.close()


async def test_in_the_shadow_the_autoscaler_decides_and_is_compared(tmp_path: Path) -> None:
    cluster = Sized(tmp_path, provisioner=False)
    await cluster.deploy("chat")
    same = scorer({"advice": 1.0}, replace(CONFIG, advice="fcfs+reactive"))
    config = replace(CONFIG, advice="fcfs+reactive")
    await cluster.deployment.shadow(bundle(tmp_path / "same", same, config))
    await cluster.tick()
    for rate_rps in (4.0, 4.0, 1.0):
        await cluster.tick(chat=rate_rps)
    assert cluster.replicas("chat") == 1
    found = cluster.deployment.status()["candidate"]
    assert found["points"] >= 3
    assert found["agreement"] == 1.0
    texts = [text for one in cluster.deployment.decisions() for text in one.record.plan]
    assert "scale chat to 3" in texts
    await cluster.deployment.shadow(bundle(tmp_path / "lazy", scorer({"head:wait": 5.0})))
    for rate_rps in (4.0, 4.0, 1.0):
        await cluster.tick(chat=rate_rps)
    assert 0 < cluster.deployment.status()["candidate"]["agreement"] < 1
    cluster.close()


async def _lived(folder: Path, cut_every: int | None = None) -> None:
    """The published bundle in charge of four services and a fleet, through a restart."""
    options = {} if cut_every is None else {"cut_every": cut_every}
    rng, names = np.random.default_rng(0), [f"service-{k}" for k in range(4)]
    with SQLiteLog(folder / "log.sqlite", **options) as entries:
        cluster = Sized(folder, log=entries, nodes=2)
        await cluster.deployment.attach(cluster.orchestrator)
        await cluster.deploy(*names)
        await cluster.deployment.activate(str(_PUBLISHED))
        for k in range(24):
            if k == 16:
                await cluster.deployment.shadow(str(_PUBLISHED))
            rates = 4.0 * (1.0 + np.sin(k / 4.0)) * rng.random(4)
            await cluster.tick(**dict(zip(names, rates.tolist(), strict=True)))
        cluster.close()


async def test_the_published_bundle_decides_live_and_again(tmp_path: Path) -> None:
    await _lived(tmp_path)
    decisions = tmp_path / "decisions" / "decisions.sqlite"
    found = reproduce(tmp_path / "log.sqlite", decisions, BundlePolicy.load)
    assert {one.result for one in found if one.record.choices} == {"same"}
    assert {one.record.mode for one in found if one.record.choices} == {"active", "shadow"}
    texts = [text for one in found for text in one.record.plan]
    assert any(text.startswith("scale service-") for text in texts)
    assert any(text.startswith("order ") for text in texts)
