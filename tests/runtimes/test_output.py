"""What workers write is read over the line of their agents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.errors import UnknownEntityError, UnreachableError, ValidationError
from orchestrator.messages import WorkerExited
from orchestrator.ports import Output, Readable
from tests.runtimes.cluster import Cluster
from tests.runtimes.stage import PYTHON, Stage, until

_BOTH = (("n0", (0,)), ("n0", (1,)))


async def _whole(stage: Stage, job_id: str, worker: int = 0, **how: Any) -> bytes:
    """All that a worker writes, until it has ended."""
    data, offset, run = b"", 0, how.pop("run", None)
    while True:
        part = await stage.runtime.output(job_id, worker, run=run, offset=offset, wait_s=10, **how)
        data, offset, run = data + part.data, part.next_offset, part.run
        if part.ended:
            return data


async def test_output_is_read_as_it_comes_and_kept_when_it_has_ended(stage: Stage) -> None:
    await stage.open("n0")
    assert isinstance(stage.runtime, Readable)
    script = (
        "import os, time\nos.write(1, f'first {os.environ[\"RANK\"]}\\n'.encode())\n"
        f"while not os.path.exists({str(stage.folder / 'go')!r}): time.sleep(0.02)\n"
        "print('last')"
    )
    stage.runtime.carry_out((stage.start("a", (*PYTHON, script), _BOTH),))
    part = await stage.runtime.output("a", 1, wait_s=10)
    assert part == Output(b"first 1\n", 0, 8, 1, ended=False)
    nothing = await stage.runtime.output("a", 1, offset=8)
    assert nothing == Output(b"", 8, 8, 1, ended=False)
    reading = asyncio.create_task(_whole(stage, "a", 1))
    (stage.folder / "go").touch()
    assert await asyncio.wait_for(reading, 10) == b"first 1\nlast\n"
    await until(lambda: bool(stage.events))
    assert stage.events == [WorkerExited("a", 1)]
    assert await _whole(stage, "a", 0, limit=5) == b"first 0\nlast\n"
    there = await stage.runtime.outputs("a")
    assert [(one.worker, one.node_id, one.begin, one.end) for one in there] == [
        (0, "n0", 0, 13),
        (1, "n0", 0, 13),
    ]
    assert all(one.ended and one.run == 1 for one in there)
    tail = await stage.runtime.output("a", 0, offset=-5)
    assert (tail.data, tail.offset, tail.ended) == (b"last\n", 8, True)


async def test_who_is_late_is_told_from_where_on_there_is_some(stage: Stage) -> None:
    stage.agents_options["log_bytes"] = 1000
    await stage.open("n0")
    script = (
        "import time\nfor k in range(1000):\n    print(f'{k:08}', flush=True)\n"
        "    if k % 100 == 0: time.sleep(0.02)"
    )
    stage.runtime.carry_out((stage.start("a", (*PYTHON, script)),))
    await until(lambda: bool(stage.events))
    (there,) = await stage.runtime.outputs("a")
    assert there.end == 9000
    assert 0 < there.begin < 9000
    part = await stage.runtime.output("a", 0)
    assert part.offset == there.begin
    rest = await _whole(stage, "a", 0)
    assert rest == b"".join(b"%08d\n" % k for k in range(1000))[there.begin :]


@pytest.mark.parametrize("job_id", ["../../x", "..", "a/b", "x\u00e9 y", ".", "a" * 300])
async def test_odd_identities_stay_in_their_folders(stage: Stage, job_id: str) -> None:
    await stage.open("n0")
    stage.runtime.carry_out((stage.start(job_id, (*PYTHON, "print(42)")),))
    assert await _whole(stage, job_id) == b"42\n"
    kept = list((stage.folder / "agents" / "n0" / "jobs").glob("*/run-1/rank-0.log"))
    assert len(kept) == 1
    assert kept[0].resolve().is_relative_to(stage.folder / "agents" / "n0" / "jobs")


async def test_a_link_that_a_worker_has_put_there_is_not_read(stage: Stage) -> None:
    await stage.open("n0")
    secret = stage.folder / "secret"
    secret.write_text("a secret")
    script = (
        "import os, pathlib\nlog = pathlib.Path.cwd().parent / 'run-1' / 'rank-0.log'\n"
        f"log.unlink()\nlog.symlink_to({str(secret)!r})\nprint('done')"
    )
    stage.runtime.carry_out((stage.start("a", (*PYTHON, script)),))
    await until(lambda: bool(stage.events))
    with pytest.raises(UnknownEntityError, match="nothing is kept of worker 0"):
        await stage.runtime.output("a", 0, run=9)
    part = await stage.runtime.output("a", 0)
    assert (part.data, part.ended) == (b"", True)
    assert [one.end for one in await stage.runtime.outputs("a")] == [0]


async def test_what_was_before_a_restart_is_found_again(stage: Stage) -> None:
    await stage.open("n0", "n1")
    place = (("n1", (0,)),)
    stage.runtime.carry_out((stage.start("a", (*PYTHON, "print(1)"), place),))
    await until(lambda: len(stage.events) == 1)
    again = stage.start("a", (*PYTHON, "print(2)"), place, run=2)
    stage.runtime.carry_out((again,))
    await until(lambda: len(stage.events) == 2)
    await stage.leave()
    await stage.come_back()
    await stage.runtime.wait_for(["n0", "n1"])
    assert await _whole(stage, "a") == b"2\n"
    assert await _whole(stage, "a", run=1) == b"1\n"
    assert [one.node_id for one in await stage.runtime.outputs("a", 1)] == ["n1"]
    assert await stage.runtime.outputs("nobody") == []


async def test_a_node_that_is_gone_is_named(stage: Stage) -> None:
    await stage.open("n0", "n1")
    script = "import os, time; os.write(1, b'here\\n'); time.sleep(60)"
    stage.runtime.carry_out((stage.start("a", (*PYTHON, script), (("n1", (0,)),)),))
    await stage.runtime.output("a", 0, wait_s=10)
    waiting = asyncio.create_task(stage.runtime.output("a", 0, offset=5, wait_s=30))
    await asyncio.sleep(0.1)
    assert stage.agents is not None
    await stage.agents.kill("n1")
    with pytest.raises(UnreachableError, match=r"node 'n1' has just been lost.*ask again"):
        await waiting
    with pytest.raises(UnreachableError, match="node 'n1' is not connected"):
        await stage.runtime.output("a", 0)
    await stage.agents.add("n1")
    await until(lambda: stage.runtime._hub.reaches("n1"))
    assert (await stage.runtime.output("a", 0)).data == b"here\n"


async def test_an_agent_of_the_release_before_is_not_asked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.open("n0")
    stage.runtime.carry_out((stage.start("a", (*PYTHON, "print(1)")),))
    await until(lambda: bool(stage.events))
    monkeypatch.setattr(stage.runtime._hub, "version", lambda node: 2)
    with pytest.raises(UnreachableError, match=r"'n0' speaks version 2 .* start it anew"):
        await stage.runtime.output("a", 0)


@pytest.mark.parametrize(
    ("asked", "field"),
    [({"worker": -1}, "worker"), ({"limit": 0}, "limit"), ({"wait_s": -1.0}, "wait_s")],
)
async def test_what_cannot_be_read_is_refused(
    stage: Stage, asked: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        await stage.runtime.output("a", **({"worker": 0} | asked))


async def test_a_cancelled_job_is_ended_and_its_output_is_kept(cluster: Cluster) -> None:
    await cluster.open()
    script = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'told\\n'), sys.exit(3)))\n"
        "os.write(1, b'up\\n')\ntime.sleep(60)"
    )
    them = cluster.orchestrator
    await cluster.submit("a", command=(*PYTHON, script))
    told = them.follow_output("a")
    assert (await anext(told)).data == b"up\n"
    assert await them.cancel_job("a", "enough")
    assert [part.data async for part in told] == [b"told\n"]
    status = them.get_job_status("a")
    assert (status["state"], status["reason"]) == ("failed", "cancelled: enough")
    assert status["exit_code"] is None
    assert cluster.runtime.observe() == {}
    (there,) = await them.outputs("a")
    assert there.ended


async def test_those_who_wait_for_output_keep_nobody_from_reading(stage: Stage) -> None:
    await stage.open("n0")
    go = stage.folder / "go"
    script = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.02)"
    stage.runtime.carry_out((stage.start("a", (*PYTHON, script), (("n0", (0,)),)),))
    await until(lambda: bool(stage.runtime._places("a", None)[1]))
    waiting = [
        asyncio.create_task(stage.runtime.output("a", 0, offset=0, wait_s=60)) for _ in range(40)
    ]
    await asyncio.sleep(0.3)
    part = await asyncio.wait_for(stage.runtime.output("a", 0), 5)
    assert part.data == b""
    await asyncio.wait_for(stage.runtime.outputs("a"), 5)
    assert not any(one.done() and one.result().ended for one in waiting)
    go.touch()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
