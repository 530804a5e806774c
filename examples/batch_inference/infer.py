"""A worker of the batch job: loads the model's file, and does what is left of the input.

python examples/batch_inference/infer.py --model model.pt --output output
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from orchestrator.worker import BatchInference

ITEMS, SHARD, WIDTH, CLASSES = 6000, 500, 16, 4


def make_model() -> nn.Module:
    """The network whose weights the file holds."""
    return nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def make_inputs() -> torch.Tensor:
    """What is to be classified."""
    return torch.randn(ITEMS, WIDTH, generator=torch.Generator().manual_seed(3))


def main() -> None:
    """Classify items until none are left, or the worker is told to stop."""
    parser = argparse.ArgumentParser(description="Classify what is left of the input.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pause-ms", type=float, default=0.0, help="slower, to have time to look")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = make_model()
    model.load_state_dict(torch.load(options.model, weights_only=True))
    inputs = make_inputs()
    with (
        torch.inference_mode(),
        BatchInference(ITEMS, options.output, shard=SHARD, batch=20) as work,
    ):
        for batch in work:
            labels = model(inputs[batch.items.start : batch.items.stop]).argmax(dim=1)
            time.sleep(options.pause_ms / 1e3)
            work.write(batch, labels.tolist())
    print(f"{work.written} items; {work.stopped or 'nothing is left'}", flush=True)


if __name__ == "__main__":
    main()
