"""An agent's process: ``python -m orchestrator.node``, and what a test breaks in it on purpose."""

from __future__ import annotations

import os
from typing import Any

from orchestrator.node import __main__ as program
from orchestrator.node.agent import Agent
from orchestrator.node.workers import NAMES

_LATER_MS = 600_000


def _outlive_leases() -> None:
    """Workers live on long after their lease: nobody may be started elsewhere meanwhile."""
    renew = Agent._renew

    def renew_late(agent: Agent, sent_ms: int) -> None:
        renew(agent, sent_ms + _LATER_MS)

    Agent._renew = renew_late


MUTATIONS = {"outlive": _outlive_leases}


def main(config: dict[str, Any]) -> int:
    """Run an agent; its exit code.

    Parameters
    ----------
    config : dict
        ``token``, ``arguments`` (as on the command line), ``mutation``.
    """
    if config["mutation"] in MUTATIONS:
        MUTATIONS[config["mutation"]]()
    os.environ[NAMES["token"]] = config["token"]
    return program.main(config["arguments"])
