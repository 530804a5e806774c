"""Output as records: whoever loses the line goes on where it was, whatever became of the files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.client.streams import LineReader
from orchestrator.kernels.state.codes import JobCode
from orchestrator.ports import Output, WorkerOutput
from orchestrator.server.output import OutputReader, Wanted, positions_of
from tests.server.world import job, world


class _Kept:
    """What the workers of a job have written, and from which byte on it is kept."""

    def __init__(self, *texts: bytes) -> None:
        self.texts, self.begin = list(texts), [0] * len(texts)
        spec = SimpleNamespace(num_workers=len(texts), elastic=False)
        self.jobs = {"a": spec}
        known = SimpleNamespace(index={"a"}, code=lambda job_id: JobCode.COMPLETED)
        self.engine = SimpleNamespace(jobs=known, runs_of=lambda job_id: 1)

    async def outputs(self, job_id: str, run: int | None) -> list[WorkerOutput]:
        return [
            WorkerOutput(job_id, 1, worker, "n0", self.begin[worker], len(text), True)
            for worker, text in enumerate(self.texts)
        ]

    async def output(self, job_id: str, worker: int, **asked: Any) -> Output:
        text, offset = self.texts[worker], max(asked["offset"], self.begin[worker])
        data = text[offset : offset + 5]  # lines come in parts
        return Output(data, offset, offset + len(data), 1, offset + len(data) >= len(text))

    async def follow_output(self, job_id: str, worker: int, **asked: Any) -> AsyncIterator[Output]:
        part = await self.output(job_id, worker, **asked)
        while part.data:
            yield part
            part = await self.output(job_id, worker, offset=part.next_offset)


async def _read(kept: _Kept, reader: LineReader, records: int = 99, **wanted: Any) -> list[str]:
    """Lines of a connection that is lost after some records."""
    known = positions_of(reader.since or "")
    asked = Wanted("a", records=True, since=known, **wanted)
    source: Any = kept
    server, lines = OutputReader(source, asked), list[str]()
    async for data in server.text(await server.kept()):
        lines += reader.feed(data)
        records -= 1
        if records == 0:
            break
    reader.feed(b'{"run": 1, "wor')
    reader.restart()
    return lines


@pytest.mark.parametrize("follow", [False, True])
async def test_no_line_comes_twice_though_files_are_begun_anew(follow: bool) -> None:
    kept = _Kept(b"one\ntwo\nthree\n", b"eins\r\xff\n")
    reader = LineReader()
    lines = await _read(kept, reader, 2, follow=follow)
    assert 0 < len(lines) < 4
    kept.texts[0] += b"four\n"
    kept.begin[0] = 4  # the first line is not kept any more
    lines += await _read(kept, reader, follow=follow)
    assert [line for line in lines if line[1] == "0"] == [
        *("[0] one\n", "[0] two\n", "[0] three\n", "[0] four\n")
    ]
    assert [line for line in lines if line[1] == "1"] == ["[1] eins\r\ufffd\n"]
    assert reader.since == "1.0:19,1.1:7"
    assert await _read(kept, reader, follow=follow) == []


async def test_what_was_dropped_meanwhile_is_said_to_be_lost() -> None:
    kept, reader = _Kept(b"one\ntwo\nthree\nno end"), LineReader()
    assert await _read(kept, reader, 1) == ["one\n"]
    kept.begin[0] = 8
    lost, *lines = await _read(kept, reader)
    assert lost.startswith("(output was lost here")
    assert lines == ["three\n", "no end"]


async def test_the_last_lines_say_where_the_next_ones_begin() -> None:
    kept, reader = _Kept(b"one\ntwo\n"), LineReader()
    assert await _read(kept, reader, tail=1) == ["two\n"]
    kept.texts[0] += b"three\n"
    assert await _read(kept, reader, tail=1) == ["three\n"]
    kept, reader = _Kept(b"one\n"), LineReader()
    assert await _read(kept, reader, tail=0) == []
    assert reader.since == "1.0:4"


async def test_what_is_no_position_is_refused() -> None:
    async with world() as here, here.client() as client:
        await client.post("/api/v1/jobs", json=job("a", job_id="a"))
        for since in ("x", "1.0", "1.0:4,", "1.0:4;1.1:2"):
            answer = await client.get("/api/v1/jobs/a/logs", params={"since": since})
            assert answer.status_code == 422, since
