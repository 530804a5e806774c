"""The program: all commands of clients, and how it ends when something is wrong."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.assistant import add_assistant
from orchestrator.cli.cluster import add_cluster
from orchestrator.cli.jobs import add_jobs
from orchestrator.cli.operations import add_operations
from orchestrator.cli.terminal import (
    AsJson,
    At,
    Exit,
    common,
    connect,
    exit_of,
    line,
    show_json,
    told,
)
from orchestrator.cli.twin import add_twin
from orchestrator.errors import QuartermasterError

__all__ = ["make_app", "run"]


_ABOUT = """Run AI workloads on a cluster: hand jobs in, follow them, look after nodes, services and
policies.

A server is found by --endpoint FILE, by QUARTERMASTER_URL and QUARTERMASTER_TOKEN, or by
QUARTERMASTER_ENDPOINT, the endpoint.json that 'quartermaster serve --dir DIR' writes into DIR.

Exit codes: 0 fine; 1 the request failed; 2 wrong use; 3 not found; 4 no right; 5 no server.
'wait', 'attach' and 'submit --watch' end as the job does: its exit code, 128 and a signal's number,
125 if it was cancelled or has failed without a code; 124: time was up.
"""


def make_app() -> typer.Typer:
    """The program with the commands of clients; whoever starts it may add others."""
    app = typer.Typer(
        name="quartermaster",
        help=_ABOUT,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_begin)
    add_jobs(app)
    add_cluster(app)
    add_operations(app)
    add_twin(app)
    add_assistant(app)
    app.command()(version)
    return app


def _begin(
    endpoint: Annotated[
        Path | None,
        typer.Option(
            "--endpoint",
            metavar="FILE",
            help="endpoint.json of the server's folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    common.endpoint = endpoint


def version(
    server: Annotated[bool, typer.Option("--server", help="Ask the server, too.")] = False,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Say which version this is.

    Example: quartermaster version --server
    """
    if not server:
        show_json({"version": _own_version()}) if as_json else line(
            f"quartermaster {_own_version()}"
        )
        return
    with connect(at) as client:
        theirs, url = client.version(), client.endpoint.url
    if as_json:
        show_json({"version": _own_version(), "server": theirs})
        return
    line(f"quartermaster {_own_version()}")
    line(f"server {theirs['version']} at {url}, for {theirs['uptime_s']:.0f} s")


def _own_version() -> str:
    try:
        return importlib.metadata.version("quartermaster")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def run(app: typer.Typer, given: Sequence[str] | None = None) -> int:
    """Run the program.

    Parameters
    ----------
    app : Typer
        The program.
    given : sequence of str or None, optional
        Arguments; None: those of the process.

    Returns
    -------
    int
        Its exit code.
    """
    common.endpoint = None
    try:
        app(list(sys.argv[1:] if given is None else given), prog_name="quartermaster")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.FAILED
    except QuartermasterError as error:
        told(f"quartermaster: {error}")
        return exit_of(error)
    except BrokenPipeError:
        # Nobody reads on, as behind 'head': what is left to say is not said, nor complained about.
        sys.stderr.close()
        return Exit.FAILED
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        told(f"quartermaster: {what}; give another place, or see to its rights")
        return Exit.FAILED
    return Exit.FINE
