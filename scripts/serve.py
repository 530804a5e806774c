"""Serve a live orchestrator: REST, events, metrics, and agents of this machine.

Usage:

    python scripts/serve.py serve.dir=results/cluster serve.agents=3 serve.gpus=4
    python scripts/serve.py serve.port=8080 serve.rule=priority
"""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from agents.program import entry_point
from agents.serve import serve


@entry_point("serve")
def main(cfg: DictConfig) -> None:
    serve(instantiate(cfg.serve))


if __name__ == "__main__":
    main()
