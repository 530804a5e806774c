"""Commands about the cluster: nodes, the queue, what happens."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.terminal import AsJson, At, Exit, connect, show_json, table, told

if TYPE_CHECKING:
    from orchestrator.client import Client

__all__ = ["add_cluster"]


_NodeId = Annotated[str, typer.Argument(metavar="NODE", help="The node's identity.")]
_SHOWN = 20  # rows of a list on the live page


def add_cluster(app: typer.Typer) -> None:
    """Add the commands to a program."""
    for command in (nodes, drain, undrain, top, queue, events):
        app.command()(command)


def nodes(
    node_id: Annotated[str | None, typer.Argument(metavar="[NODE]", help="Only this one.")] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """List nodes, or show one.

    Example: quartermaster nodes
    """
    with connect(at) as client:
        found = client.nodes() if node_id is None else [client.node(node_id)]
    if as_json:
        show_json(found if node_id is None else found[0])
        return
    from orchestrator.cli.views import NODE_COLUMNS, node_row

    table(NODE_COLUMNS, map(node_row, found), "no nodes")


def drain(
    node_id: _NodeId,
    force: Annotated[
        bool, typer.Option("--force", help="Do not save its jobs first: they are interrupted.")
    ] = False,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Empty a node: it gets no new work, and its jobs move away.

    Example: quartermaster drain node-2
    """
    with connect(at) as client:
        _told(node_id, client.drain(node_id, force=force), as_json, "drained")


def undrain(node_id: _NodeId, at: At = None, as_json: AsJson = False) -> None:
    """Use a node again that was to be emptied.

    Example: quartermaster undrain node-2
    """
    with connect(at) as client:
        _told(node_id, client.undrain(node_id), as_json, "in use again")


def _told(node_id: str, answer: dict[str, Any], as_json: bool, what: str) -> None:
    """Say what became of a node; end with 1 if nothing did."""
    done = answer.get("done", True)
    if as_json:
        show_json(answer)
    if not done:
        told(f"node {node_id} is not {what}: {answer.get('why') or 'no reason was given'}")
        raise typer.Exit(Exit.FAILED)
    if not as_json:
        typer.echo(f"node {node_id} {what}")


def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")
    ] = 2.0,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Watch the cluster: nodes, jobs that run, jobs that wait. Ctrl-C ends it.

    Example: quartermaster top --once
    """
    with connect(at, patient=not once) as client:
        if as_json:
            show_json(client.cluster())
            return
        from orchestrator.cli.tables import console

        if once:
            console().print(_page(client))
            return
        import time

        from rich.live import Live

        with suppress(KeyboardInterrupt), Live(_page(client), console=console()) as live:
            while True:
                time.sleep(interval)
                live.update(_page(client), refresh=True)


def _page(client: Client) -> Any:
    from orchestrator.cli.views import dashboard

    running = client.jobs(state="running", limit=_SHOWN)
    return dashboard(client.cluster(), client.nodes(), running, client.queue(_SHOWN))


def queue(
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first ones.")
    ] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """List jobs that wait in the order of service: why, and until when as far as is known.

    Example: quartermaster queue
    """
    with connect(at) as client:
        waiting = client.queue(limit)
    if as_json:
        show_json(waiting)
        return
    from orchestrator.cli.views import QUEUE_COLUMNS, queue_row

    table(QUEUE_COLUMNS, map(queue_row, waiting), "nobody waits")


def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens.")
    ] = False,
    since: Annotated[
        str | None, typer.Option("--since", help="Only what came after this cursor (--json).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """List what has happened: to jobs, nodes, services and policies. Ctrl-C ends -f.

    Example: quartermaster events -f
    """
    from orchestrator.cli.views import event_line

    with connect(at, patient=follow) as client, suppress(KeyboardInterrupt):
        for event in client.events(since, limit=limit, follow=follow):
            if as_json:
                show_json(event, compact=True)
            else:
                typer.echo(event_line(event))
