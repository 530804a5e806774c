"""Run the agent of a node: ``python -m orchestrator.node --node NAME --orchestrator ADDRESS``.

The token is read from ``QUARTERMASTER_TOKEN``, so that it stands in no list of processes.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import ConfigurationError
from orchestrator.node.agent import Agent, AgentSettings, Exit, lock_folder
from orchestrator.node.protocol import Address
from orchestrator.node.workers import NAMES

__all__ = ["arguments", "main"]


_WRONG_USE = 2


_log = logging.getLogger("orchestrator.node")


def arguments() -> argparse.ArgumentParser:
    """What may be given."""
    defaults = AgentSettings("node", Address(), "", Path())
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.node", description="Run the agent of a node."
    )
    add = parser.add_argument
    add("--node", required=True, help="which node this is, as the orchestrator knows it")
    add("--orchestrator", required=True, help="where it listens: HOST:PORT, or unix:PATH")
    add("--folder", required=True, type=Path, help="where logs and jobs' folders go")
    add("--host", default=defaults.host, help="where other nodes reach this one's workers")
    add("--beat", type=float, default=defaults.beat_s, help="seconds between signs of life")
    add("--log-bytes", type=int, default=defaults.log_bytes, help="of a worker's log file")
    add("--grace", type=float, default=defaults.grace_s, help="seconds for workers to end")
    add("--linger", type=float, help="seconds to look for an orchestrator; default: for ever")
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """Run an agent; its exit code."""
    options = arguments().parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = AgentSettings(
            node=options.node,
            address=Address.parse(options.orchestrator),
            token=os.environ.pop(NAMES["token"], ""),
            folder=options.folder.resolve(),
            host=options.host,
            beat_s=options.beat,
            log_bytes=options.log_bytes,
            grace_s=options.grace,
            linger_s=options.linger,
        )
    except ConfigurationError as error:
        _log.error("%s", error)
        return _WRONG_USE
    lock = lock_folder(settings.folder)
    if lock is None:
        _log.error("another agent uses '%s'; end it, or give another folder", settings.folder)
        return Exit.TAKEN
    try:
        return asyncio.run(_run(settings))
    finally:
        os.close(lock)


async def _run(settings: AgentSettings) -> int:
    return await Agent(settings).run()


if __name__ == "__main__":
    sys.exit(main())
