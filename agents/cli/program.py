"""The console script ``quartermaster``: the commands of clients, and those that start processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import make_app, run
from orchestrator.cli.terminal import line, with_flags

__all__ = ["main"]


_THEIR_OWN = {"ignore_unknown_options": True, "help_option_names": []}


@dataclass(frozen=True)
class _ServeFlags:
    """What a server is started with: fields of ``agents.serve.ServeSettings``."""

    dir: Annotated[
        Path, typer.Option(help="Where everything is that it keeps; it goes on from there.")
    ] = Path("quartermaster")
    host: Annotated[str, typer.Option(help="Address that it answers at.")] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: where it answered last, or a free one.")
    ] = 0
    mesh_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the services' proxy; 0 as above.")
    ] = 0
    agents: Annotated[
        int, typer.Option(min=0, max=64, help="Agents to start on this machine, node-0 and so on.")
    ] = 1
    gpus: Annotated[int, typer.Option(min=0, help="GPUs that each of them declares.")] = 0
    cpus: Annotated[int, typer.Option(min=0, help="CPU cores that each declares.")] = 8
    memory_gb: Annotated[float, typer.Option(min=0, help="Memory that each declares, GiB.")] = 64.0
    rule: Annotated[str, typer.Option(help="Rule that decides; otherwise as before.")] = ""
    bundle: Annotated[str, typer.Option(help="Folder of a trained policy that decides.")] = ""
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML with nodes, tenants and services.")
    ] = None
    etcd: Annotated[
        str, typer.Option(metavar="HOST:PORT,...", help="Members that keep the log.")
    ] = ""
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info"
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log lines are JSON.")] = False
    keep_agents: Annotated[
        bool, typer.Option("--keep-agents", help="Agents outlive it for a minute, for the next.")
    ] = False


def main(given: Sequence[str] | None = None) -> int:
    """Run ``quartermaster``; its exit code."""
    app = make_app()
    app.command("serve")(with_flags(_ServeFlags)(_serve))
    app.command("agent", context_settings=_THEIR_OWN)(_agent)
    return run(app, given)


def _serve(*, flags: _ServeFlags) -> None:
    """Run a server, with agents on this machine, until it is told to end.

    Example: quartermaster serve --dir cluster --agents 3 --gpus 4
    """
    from agents.serve import ServeSettings, serve

    serve(ServeSettings(**vars(flags)), say=line)


def _agent(
    given: Annotated[
        list[str] | None, typer.Argument(metavar="OPTIONS", help="'--help' lists them.")
    ] = None,
) -> None:
    """Run the agent of a node, which starts workers there and watches them.

    Example: quartermaster agent --node node-7 --orchestrator 10.0.0.1:7000 --folder agent
    """
    from orchestrator.node.__main__ import main as run_agent

    raise typer.Exit(run_agent(given or []))
