"""Routes of the policy in charge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from orchestrator.deployment import DecisionLog, Guards, PolicyDeployment
from orchestrator.scheduling.rules import RULES
from orchestrator.server.app import create_app
from orchestrator.server.guard.tokens import Role
from tests.deployment.cases import Named
from tests.server.world import World, job, problem, world

API = "/api/v1/policy"


def _deployed(here: World, deployment: PolicyDeployment) -> None:
    here.parts = replace(here.parts, deployment=deployment)
    here.app = create_app(here.parts)


async def _submit(here: World, client: httpx.AsyncClient, count: int) -> None:
    for _ in range(count):
        answer = await client.post("/api/v1/jobs", json=job(gpus_per_worker=1))
        assert answer.status_code == 201, answer.text
        await here.clock.advance_to(here.clock.now_ms() + 1000)


async def test_a_policy_is_put_in_charge_and_taken_out_again(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "decisions.sqlite")
    free = Guards(deadline_ms=None)
    deployment = PolicyDeployment(RULES["fcfs"], Named, guards=free, log=log)
    async with world(policy=deployment) as here:
        _deployed(here, deployment)
        async with here.client() as client:
            assert (await client.get(API)).json()["mode"] == "fallback"
            answer = await client.post(f"{API}/activate", json={"bundle": "sjf"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["reason"] == "operator: sjf is in charge"
            await _submit(here, client, 3)
            deployment.drain()
            first = (await client.get(f"{API}/decisions", params={"limit": 2})).json()
            assert [one["plan"][0].split()[0] for one in first["items"]] == ["place", "place"]
            assert first["items"][0]["alternatives"] == [{"action": "first", "score": 1.0}]
            cursor = {"limit": 2, "cursor": first["next_cursor"]}
            rest = (await client.get(f"{API}/decisions", params=cursor)).json()
            assert len(rest["items"]) == 1
            assert rest["next_cursor"] is None
            for mode, body in (
                ("shadow", {"bundle": "srtf"}),
                ("canary", {"bundle": "srtf", "share": 0.1}),
            ):
                told = (await client.post(f"{API}/{mode}", json=body)).json()
                assert (told["mode"], told["bundle"]) == (mode, "srtf")
            text = (await client.get("/metrics")).text
            assert 'quartermaster_policy_mode{mode="canary"} 1.0' in text
            assert 'quartermaster_policy_decisions{verdict="late"} 0.0' in text
            told = (await client.post(f"{API}/fallback", json={"reason": "enough"})).json()
            assert (told["mode"], told["reason"]) == ("fallback", "enough")
            assert (await client.post(f"{API}/fallback")).status_code == 200
            modes = [one["mode"] for one in (await client.get(API)).json()["events"]]
            assert modes == ["active", "shadow", "canary", "fallback", "fallback"]
    deployment.close()
    log.close()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("activate", {}, "bundle"),
        ("activate", {"bundle": ""}, "bundle"),
        ("canary", {"bundle": "sjf", "share": 1.0}, "share"),
        ("canary", {"bundle": "sjf"}, "share"),
        ("shadow", {"bundle": "sjf", "mode": "x"}, "mode"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    path: str, body: dict[str, object], field: str
) -> None:
    async with world() as here:
        _deployed(here, PolicyDeployment(None, Named))
        async with here.client() as client:
            answer = await client.post(f"{API}/{path}", json=body)
            assert answer.status_code == 422
            assert problem(answer)["field"] == field


async def test_a_bundle_that_is_none_is_said_and_changes_nothing() -> None:
    async with world() as here:
        _deployed(here, PolicyDeployment(None, Named))
        async with here.client() as client:
            answer = await client.post(f"{API}/activate", json={"bundle": "no-rule"})
            assert answer.status_code == 422
            assert "'no-rule' cannot be put in charge" in problem(answer)["detail"]
            assert (await client.get(API)).json()["mode"] == "fallback"


async def test_roles_are_respected_and_a_server_without_says_so() -> None:
    async with world() as here:
        async with here.client(Role.SUBMITTER) as client:
            assert (await client.get(API)).status_code == 409
            for path in ("shadow", "canary", "activate", "fallback"):
                body = {"bundle": "sjf", "share": 0.5}
                assert (await client.post(f"{API}/{path}", json=body)).status_code == 403
        async with here.client(None) as client:
            assert (await client.get(API)).status_code == 401
