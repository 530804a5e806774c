"""The assistant's door: questions to a cluster, and dry runs, for programs that speak MCP.

``quartermaster mcp`` is a server of the Model Context Protocol on its standard input and output. It
asks the cluster's server as any client does, with the rights of the token that it is given, and
changes nothing. With ``--writes`` it offers a few changes too, each in two calls: the first one
says what would be done and gives a code, and only the same call with that code does it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.terminal import At, common
from orchestrator.errors import ConfigurationError, QuartermasterError

if TYPE_CHECKING:
    from fastmcp import FastMCP

    from orchestrator.client import AsyncClient

__all__ = ["add_assistant", "make_server"]


_ABOUT = """Questions to a cluster that runs AI workloads: which jobs there are, when one will start
and end, why it waits and what would help, what would be if something were done. Times are in
milliseconds since the epoch. Nothing that is asked changes anything."""
_WRITES_ABOUT = """
Tools that change something do nothing at first: they say what they would do and give a code. Show
that to the person whose cluster it is; call again with 'confirm' only when they agree."""
_MOST_JOBS = 500
_MOST_CODES = 100  # that are remembered: the oldest is forgotten first


def add_assistant(app: typer.Typer) -> None:
    """Add the command to a program."""
    app.command("mcp")(serve_mcp)


def serve_mcp(
    at: At = None,
    writes: Annotated[
        bool, typer.Option("--writes", help="Offer changes too; each has to be confirmed.")
    ] = False,
) -> None:
    """Answer an assistant that speaks MCP, on standard input and output.

    Example: quartermaster mcp --endpoint cluster/endpoint.json
    """
    make_server(at or common.endpoint, writes=writes).run(show_banner=False)


def make_server(endpoint: Path | str | None = None, *, writes: bool = False) -> FastMCP:
    """The server; ``writes``: with tools that change something.

    Raises
    ------
    ConfigurationError
        If fastmcp is not installed.
    """
    try:
        from fastmcp import FastMCP
    except ImportError as error:
        raise ConfigurationError(
            "mcp: fastmcp is not installed; pip install 'quartermaster[assistant]'"
        ) from error
    about = _ABOUT + (_WRITES_ABOUT if writes else "")
    server: FastMCP = FastMCP("quartermaster", instructions=about)
    asker = _Asker(endpoint)
    questions: list[Callable[..., Any]] = [
        *(asker.cluster, asker.jobs, asker.job, asker.queue, asker.nodes),
        *(asker.when, asker.why, asker.what_if, asker.check_job),
    ]
    for tool in questions:
        server.tool(tool, annotations={"readOnlyHint": True})
    if writes:
        changer = _Changer(asker)
        for change in (changer.submit, changer.cancel, changer.migrate, changer.drain):
            server.tool(change, annotations={"readOnlyHint": False, "destructiveHint": True})
    return server


class _Asker:
    """Questions, and dry runs."""

    def __init__(self, endpoint: Path | str | None) -> None:
        self._endpoint = endpoint

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        """A client; what goes wrong is told to the assistant, in the words of the error."""
        from fastmcp.exceptions import ToolError

        from orchestrator.client import AsyncClient

        try:
            async with AsyncClient(self._endpoint) as client:
                yield client
        except QuartermasterError as error:
            raise ToolError(str(error)) from error

    async def cluster(self) -> dict[str, Any]:
        """Tell how the cluster is: nodes, GPUs, jobs by state, utilisation."""
        async with self.client() as client:
            return dict(await client.cluster())

    async def jobs(
        self, state: str | None = None, tenant: str | None = None, limit: int = 50
    ) -> list[Mapping[str, Any]]:
        """List jobs, the newest first; perhaps only those in a state, or of a tenant."""
        async with self.client() as client:
            found = await client.jobs(state=state, tenant=tenant, limit=min(limit, _MOST_JOBS))
            return [dict(one) for one in found]

    async def job(self, job_id: str) -> dict[str, Any]:
        """Tell all that is known of a job."""
        async with self.client() as client:
            return dict(await client.job(job_id))

    async def queue(self, limit: int = 50) -> list[Mapping[str, Any]]:
        """List the jobs that wait, in the order in which they are served, with the reason."""
        async with self.client() as client:
            return [dict(one) for one in await client.queue(min(limit, _MOST_JOBS))]

    async def nodes(self) -> list[Mapping[str, Any]]:
        """List the nodes."""
        async with self.client() as client:
            return [dict(one) for one in await client.nodes()]

    async def when(self, job_id: str, futures: int = 200) -> dict[str, Any]:
        """Say when a job will start and end: quantiles over so many futures of the cluster."""
        async with self.client() as client:
            return dict(await client.when(job_id, futures))

    async def why(self, job_id: str) -> dict[str, Any]:
        """Say why a job waits, who holds what it needs, and the smallest changes that help."""
        async with self.client() as client:
            return dict(await client.why(job_id))

    async def what_if(self, supposed: dict[str, Any], futures: int = 100) -> dict[str, Any]:
        """Say what would be if something were done now; nothing is done.

        ``supposed`` has some of: cancel, fail, drain, move (lists of identities), nodes (by node,
        how many more like it), quota (by tenant), priority (by job), submit (a job), policy.
        """
        async with self.client() as client:
            told = dict(await client.what_if(**supposed, futures=futures))
        told.pop("courses", None)  # hundreds of numbers, to be drawn
        return told

    async def check_job(self, job: dict[str, Any]) -> dict[str, Any]:
        """Say whether a job would be taken (a dry run): name, command, num_workers, and so on."""
        async with self.client() as client:
            return dict(await client.submit(**job, dry_run=True))


_Do = Callable[["AsyncClient"], Awaitable[Any]]


class _Changer:
    """Changes, each in two calls."""

    def __init__(self, asker: _Asker) -> None:
        self._asker = asker
        self._codes = dict[str, str]()  # by code, what may be done with it, once

    async def _do(self, what: str, given: Mapping[str, Any], confirm: str, do: _Do) -> Any:
        """Do it if its code is given; otherwise say what would be done, and the code."""
        import secrets  # only here: every command's start would wait for it

        from fastmcp.exceptions import ToolError

        wanted = json.dumps([what, given], sort_keys=True)
        if confirm:
            if self._codes.pop(confirm, "") != wanted:
                raise ToolError(f"{what}: this code is not for that; call without 'confirm' first")
            async with self._asker.client() as client:
                return dict(await do(client))
        code = secrets.token_hex(4)
        while len(self._codes) >= _MOST_CODES:
            del self._codes[next(iter(self._codes))]
        self._codes[code] = wanted
        return {"done": False, "would": what, "with": dict(given), "confirm": code}

    async def submit(self, job: dict[str, Any], confirm: str = "") -> dict[str, Any]:
        """Hand a job in: name, command, num_workers, gpus_per_worker, and so on."""
        return dict(await self._do("submit", job, confirm, lambda client: client.submit(**job)))

    async def cancel(self, job_id: str, reason: str = "", confirm: str = "") -> dict[str, Any]:
        """End a job; it does not come back."""
        given = {"job_id": job_id, "reason": reason}
        return dict(await self._do("cancel", given, confirm, lambda c: c.cancel(job_id, reason)))

    async def migrate(self, job_id: str, confirm: str = "") -> dict[str, Any]:
        """Move a running job to a tighter place: it is saved, and started again there."""
        given = {"job_id": job_id}
        return dict(await self._do("migrate", given, confirm, lambda c: c.migrate(job_id)))

    async def drain(self, node_id: str, confirm: str = "") -> dict[str, Any]:
        """Empty a node: its jobs are saved, and it leaves."""
        given = {"node_id": node_id}
        return dict(await self._do("drain", given, confirm, lambda c: c.drain(node_id)))
