"""Record demonstrations of a rule or a trained policy: a data set in Minari's format.

Usage:

    python scripts/record.py rule=sjf windows=200 name=lublin-sjf-v0
    python scripts/record.py env=cluster workload=gpu_cluster rule=srtf name=cluster-srtf-v0
    python scripts/record.py bundle=results/lublin/ppo name=lublin-ppo-v0
    python scripts/record.py --help
"""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console

from agents.offline import record
from agents.program import entry_point


@entry_point("record")
def main(cfg: DictConfig) -> None:
    record(cfg, Console())


if __name__ == "__main__":
    main()
