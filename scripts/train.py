"""Train an agent, then judge it on test windows that it never saw.

Usage:

    python scripts/train.py experiment=demo
    python scripts/train.py --help
"""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console

from agents.program import entry_point
from agents.run import train


@entry_point("train")
def main(cfg: DictConfig) -> float:
    return train(cfg, Console())


if __name__ == "__main__":
    main()
