"""The twin of a live cluster: what it answers comes true, and asking changes nothing."""

from __future__ import annotations

import json

import pytest

from orchestrator.errors import (
    ConfigurationError,
    IllegalActionError,
    QuartermasterError,
    UnknownEntityError,
)
from orchestrator.kernels.state.codes import JobKind, QuotaMode, Topology
from orchestrator.scheduling.rules import RULES
from orchestrator.semantics import Semantics
from orchestrator.twin.answers import Change, plain
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.supposed import Suppose
from orchestrator.types import JobPriority, JobSpec, NodeSpec, TenantSpec
from tests.engine.builders import HOUR_MS, Stage, job, node, stage

FEW = TwinConfig(futures=24)


async def settled(*nodes: NodeSpec, **options: object) -> Stage:
    here = stage(*nodes, schedule_on_events=True, **options)
    await here.orchestrator.start()
    return here


async def submit(here: Stage, *specs: JobSpec) -> None:
    for spec in specs:
        await here.orchestrator.submit_job(spec)
    await here.wait(0.01)


async def busy() -> Stage:
    """Eight jobs have come and gone, an hour each; four run, and two wait."""
    here = await settled(node("a"))
    for k in range(8):
        await submit(here, job(f"past-{k}"))
        await here.wait(20)
    await here.wait(120)
    await submit(here, *(job(f"run-{k}") for k in range(4)))
    await here.wait(30)
    await submit(here, job("first"), job("second", num_workers=4))
    return here


async def test_when_is_what_comes_and_the_cluster_stays_as_it_is() -> None:
    here = await busy()
    engine = here.orchestrator.engine
    before = engine.log_hash, engine.applied, engine.state.job.tobytes()
    told = await here.orchestrator.when("first", FEW)
    again = await here.orchestrator.when("first", FEW)
    whole = await here.orchestrator.starts(FEW)
    why = await here.orchestrator.why("second")
    await here.orchestrator.what_if(Suppose(cancel=("run-0",)), FEW)
    assert (engine.log_hash, engine.applied, engine.state.job.tobytes()) == before
    assert told == again
    assert set(whole) == {"first", "second"}
    assert why.waits_for["reason"] != "ok"
    assert json.loads(json.dumps(plain(told))) == plain(told)
    assert told.start is not None
    assert told.end is not None
    assert told.now_ms <= told.start.p10 <= told.start.p50 <= told.end.p50
    assert told.sources.ended_jobs == 8
    assert told.by_estimates_ms == pytest.approx(told.now_ms + 0.5 * HOUR_MS, abs=60_000)
    await here.wait(60)
    started = here.orchestrator.get_job_status("first")["first_start_ms"]
    assert told.start.p10 <= started <= told.start.p90


async def test_questions_without_an_answer_say_why() -> None:
    here = await settled(node("a"))
    with pytest.raises(UnknownEntityError, match="no job 'nobody'"):
        await here.orchestrator.when("nobody")
    await submit(here, job("runs"))
    with pytest.raises(IllegalActionError, match="'runs' is running; ask why of one that waits"):
        await here.orchestrator.why("runs")
    with pytest.raises(ConfigurationError, match="nothing is supposed"):
        Suppose()
    with pytest.raises(ConfigurationError, match="unknown policy 'os:system'"):
        Suppose(policy="os:system")
    with pytest.raises(UnknownEntityError, match="no node 'x'"):
        await here.orchestrator.what_if(Suppose(drain=("x",)), FEW)
    with pytest.raises(QuartermasterError, match="gpus_per_worker"):
        await here.orchestrator.what_if(Suppose(submit=job("large", gpus_per_worker=9)), FEW)
    await here.wait(70)
    with pytest.raises(IllegalActionError, match="'runs' has ended"):
        await here.orchestrator.when("runs")


async def made(here: Stage, job_id: str, change: Change) -> str:
    """Make a change that was offered by the commands that people have; the job's identity then."""
    spec = here.orchestrator.jobs[job_id]
    fields = {
        "workers": lambda: {"num_workers": change.to, "min_workers": 1},
        "gpu_models": lambda: {"gpu_models": change.to},
        "topology": lambda: {"topology": Topology[change.to]},
        "priority": lambda: {"priority": JobPriority[change.to]},
        "tenant": lambda: {"tenant": change.to},
    }
    if change.what == "moves":
        for name in change.to:
            assert await here.orchestrator.migrate_job(name)
        return job_id
    if change.what == "nodes":
        like = here.orchestrator.nodes[change.to["like"]]
        for k in range(change.to["count"]):
            await here.orchestrator.register_node(
                NodeSpec(**{**vars(like), "node_id": f"more-{k}"})
            )
        return job_id
    values = {**vars(spec), "job_id": "anew", **fields[change.what]()}
    await here.orchestrator.cancel_job(job_id)
    await here.orchestrator.submit_job(JobSpec(**values))
    return "anew"


async def crowd(kind: str) -> Stage:
    """A cluster in which job ``it`` waits."""
    options: dict[str, object] = {}
    nodes = [node("a", rack=0), node("b", rack=1)]
    waits, runs = job("it", num_workers=4), [job("r0", num_workers=3), job("r1", num_workers=3)]
    if kind == "model":
        nodes = [node("a", gpu_model="old"), node("b", gpu_model="new")]
        waits, runs = job("it", gpu_models=("new",)), [job("r0", gpus_per_worker=4)]
        runs[0] = job("r0", gpus_per_worker=4, gpu_models=("new",))
    elif kind == "topology":
        waits = job("it", num_workers=2, topology=Topology.NODE)
    elif kind == "priority":
        runs = [job("r0", gpus_per_worker=4), job("r1", gpus_per_worker=4)]
        waits = job("it", num_workers=4)
    elif kind == "tenant":
        options["semantics"] = Semantics(quota_mode=QuotaMode.HARD)
        options["tenants"] = (TenantSpec("poor", quota=2), TenantSpec("rich", quota=4))
        runs = [job("r0", num_workers=2, tenant="poor")]
        waits = job("it", num_workers=2, tenant="poor")
    elif kind == "scattered":
        waits = job("it", num_workers=4, topology=Topology.NODE)
        runs = [job("l0", gpus_per_worker=3), job("s0"), job("l1", gpus_per_worker=3), job("s1")]
    here = await settled(*nodes, **options)
    await submit(here, *runs)
    if kind == "scattered":  # one GPU of each node is taken
        await here.orchestrator.cancel_job("l0")
        await here.orchestrator.cancel_job("l1")
    await submit(here, waits)
    return here


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("workers", {"workers", "nodes"}),
        ("model", {"gpu_models"}),
        ("topology", {"topology", "workers"}),
        ("priority", {"priority", "nodes"}),
        ("tenant", {"tenant", "quota"}),
        ("scattered", {"moves", "workers", "nodes"}),
    ],
)
async def test_every_change_that_is_offered_starts_the_job_at_once(
    kind: str, expected: set[str]
) -> None:
    here = await crowd(kind)
    assert here.state_of("it") == "pending"
    told = await here.orchestrator.why("it")
    assert expected <= {change.what for change in told.changes}, told
    assert told.held_by
    for change in told.changes:
        if change.what == "quota":
            continue  # people have no command for it: an operator starts the server anew
        again = await crowd(kind)
        name = await made(again, "it", change)
        await again.wait((change.starts_after_ms + 10) / 60_000)
        assert again.state_of(name) == "running", change
        for other in change.displaces:
            assert again.orchestrator.get_job_status(other)["preemptions"] == 1


async def test_moves_empty_the_node_on_which_least_is_missing() -> None:
    """One move alone lets nobody in, nor do three: a node has to be emptied of four jobs."""
    here = await settled(node("a", 8, rack=0), node("b", 8, rack=1))
    for k in range(2):  # one node is filled up before the next one
        await submit(here, job(f"large-{k}", gpus_per_worker=4 - k))
        await submit(here, *(job(f"small-{k}-{i}") for i in range(4)))
    await submit(here, job("one"))
    for name in ("large-0", "large-1", "one"):
        await here.orchestrator.cancel_job(name)
    await here.wait(2)
    await submit(here, job("it", gpus_per_worker=8))
    why = await here.orchestrator.why("it")
    (moves,) = [one for one in why.changes if one.what == "moves"]
    assert len(moves.to) == 4
    assert len({name[:7] for name in moves.to}) == 1  # all of one node
    assert await made(here, "it", moves) == "it"
    await here.wait(1)
    assert here.state_of("it") == "running"


async def test_moves_are_few_and_say_what_they_cost() -> None:
    here = await crowd("scattered")
    (moves,) = [one for one in (await here.orchestrator.why("it")).changes if one.what == "moves"]
    assert len(moves.to) == 1
    assert moves.to[0] in ("s0", "s1")
    assert moves.costs_gpu_s == 5 + 20  # one GPU, while its job is saved and started again
    told = await here.orchestrator.what_if(Suppose(move=moves.to), FEW)
    assert told.jobs["it"].high < 0
    assert told.jobs[moves.to[0]].low > 0
    with pytest.raises(IllegalActionError, match="job 'it' stays where it is \\(not_running\\)"):
        await here.orchestrator.what_if(Suppose(move=("it",)), FEW)


async def test_a_job_that_has_no_tighter_place_stays() -> None:
    here = await crowd("scattered")
    assert await here.orchestrator.migrate_job("s0")
    assert here.state_of("it") in ("pending", "scheduled", "running")
    assert not await here.orchestrator.migrate_job("s0")
    with pytest.raises(UnknownEntityError, match="no job 'nobody'"):
        await here.orchestrator.migrate_job("nobody")


async def test_the_smallest_number_of_workers_is_offered() -> None:
    here = await crowd("workers")
    told = await here.orchestrator.why("it")
    assert [change.to for change in told.changes if change.what == "workers"] == [2]


async def test_what_if_a_node_joins_or_leaves_or_a_job_is_cancelled() -> None:
    here = await busy()
    ask = here.orchestrator.what_if
    joins = await ask(Suppose(nodes={"a": 1}), FEW)
    assert joins.total is not None
    assert joins.total.mean < 0
    assert joins.jobs["second"].high < 0  # in each of the futures it is sooner
    assert joins.tenants["default"].mean == pytest.approx(joins.total.mean)
    gone = await ask(Suppose(cancel=("run-0", "run-1")), FEW)
    assert set(gone.jobs) == {"run-2", "run-3", "first", "second"}
    assert gone.jobs["first"].mean < 0
    assert gone.jobs["run-2"].mean == gone.jobs["run-2"].low == 0.0  # the same futures
    fails = await ask(Suppose(fail=("a",), nodes={"a": 1}), FEW)
    assert fails.jobs["run-0"].mean > 0
    none = await ask(Suppose(policy="priority"), FEW)
    assert none.total is not None
    assert none.total.mean == none.total.high == 0.0
    first = await ask(Suppose(priority={"second": JobPriority.PRODUCTION}), FEW)
    assert first.jobs["second"].mean < 0
    new = await ask(Suppose(submit=job("third")), FEW)
    assert new.new_job is not None
    assert new.new_job.start is not None
    assert "third" not in new.jobs


async def test_another_policy_is_compared_on_the_same_futures() -> None:
    here = await settled(node("a"), policy=RULES["fifo"])
    await submit(here, job("runs", gpus_per_worker=3, max_duration_hours=2.0))
    await submit(here, job("large", gpus_per_worker=4), job("small", max_duration_hours=0.5))
    told = await here.orchestrator.what_if(Suppose(policy="sjf"), FEW)
    assert told.rule == "sjf"
    assert told.jobs["small"].mean < 0
    when = await here.orchestrator.when("small", FEW)
    assert when.rule == "fifo"


async def test_courses_are_those_of_the_futures_that_are_compared() -> None:
    here = await settled(node("a"))
    await submit(here, *(job(f"run-{k}", max_duration_hours=k + 1.0) for k in range(4)))
    await submit(here, job("waits", max_duration_hours=2.0))
    sure = TwinConfig(futures=4, arrivals=False)
    told = (await here.orchestrator.what_if(Suppose(cancel=("run-3",)), sure)).courses
    assert told is not None
    assert told.unit == "gpu"
    assert len(told.times_ms) == len(told.waiting.p50) == len(told.in_use_after.p90)
    assert told.times_ms[0] >= here.orchestrator.engine.now_ms
    for course in (told.waiting, told.waiting_after, told.in_use, told.in_use_after):
        assert all(a <= b <= c for a, b, c in zip(course.p10, course.p50, course.p90, strict=True))
    assert told.waiting.p50[0] == told.waiting.p90[0] == 1.0
    assert told.waiting_after.p90[0] == 0.0  # where one was cancelled it starts at once
    assert told.in_use.p10[0] == told.in_use_after.p90[0] == 4.0
    assert told.in_use.p10[-1] < 4.0
    alone = await here.orchestrator.what_if(Suppose(cancel=("waits",), policy="priority"), sure)
    assert alone.courses is not None
    assert set(alone.courses.waiting_after.p90) == {0.0}
    assert alone.courses.in_use_after.p50[0] == 4.0


async def test_no_course_uses_more_than_there_is_though_jobs_are_preempted() -> None:
    here = await crowd("priority")
    told = (
        await here.orchestrator.what_if(Suppose(priority={"it": JobPriority.CRITICAL}), FEW)
    ).courses
    assert told is not None
    capacity = sum(one.gpus for one in here.orchestrator.nodes.values())
    assert max(told.in_use_after.p90) <= capacity + 1e-9


async def test_services_are_not_waited_for_until_they_end() -> None:
    here = await settled(node("a"))
    await submit(here, job("serves", kind=JobKind.SERVICE), job("runs"))
    told = await here.orchestrator.what_if(Suppose(nodes={"a": 1}), FEW)
    assert set(told.jobs) == {"runs"}
    assert told.courses is not None
    assert told.courses.in_use.p50[0] == 2.0
    assert told.courses.times_ms[-1] - told.now_ms < 100 * HOUR_MS
