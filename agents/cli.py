"""The console script ``quartermaster``: the commands of clients, and those that start processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from orchestrator.cli.app import make_app, run

__all__ = ["main"]


_THEIR_OWN = {"ignore_unknown_options": True, "help_option_names": []}


def main(given: Sequence[str] | None = None) -> int:
    """Run ``quartermaster``; its exit code."""
    app = make_app()
    app.command("agent", context_settings=_THEIR_OWN)(_agent)
    return run(app, given)


def _agent(
    given: Annotated[
        list[str] | None, typer.Argument(metavar="OPTIONS", help="'--help' lists them.")
    ] = None,
) -> None:
    """Run the agent of a node, which starts workers there and watches them.

    Example: quartermaster agent --node node-7 --orchestrator 10.0.0.1:7000 --folder /var/lib/qm
    """
    from orchestrator.node.__main__ import main as run_agent

    raise typer.Exit(run_agent(given or []))


if __name__ == "__main__":
    sys.exit(main())
