"""A training script that does not care how many workers there are.

Plain PyTorch but for three things: the order of the data, the ``with``, and the loop. Nothing here
steps the optimizer: the loop does, when all workers have their gradients.

    python examples/elastic_training/train.py     by itself, or under torchrun
    python examples/elastic_training/run.py       scaled and shot at while it trains
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from torch import nn

from orchestrator.worker import DataOrder, Elastic, Share, TorchFTElastic

ITEMS, WIDTH, BATCH, SEED = 4096, 32, 64, 1


def make_data() -> tuple[torch.Tensor, torch.Tensor]:
    """Points, and what a network that nobody knows makes of them: this is to be learned."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(ITEMS, WIDTH, generator=generator)
    mixing = torch.randn(WIDTH, 4, generator=generator) / WIDTH**0.5
    return x, torch.sin(x @ mixing).sum(dim=1, keepdim=True)


def make_model(width: int) -> nn.Module:
    """A small network."""
    torch.manual_seed(SEED)
    layers = [nn.Linear(WIDTH, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def main() -> None:
    """Train, and print the loss over all data."""
    parser = argparse.ArgumentParser(description="Train a small network, on any number of workers.")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--save-every", type=int, default=0, help="steps; 0: when asked")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="slower, to have time to look")
    parser.add_argument("--torchft", action="store_true", help="by torchft's lighthouse")
    parser.add_argument("--record", type=Path, help="folder for a line per step and worker")
    options = parser.parse_args()

    torch.set_num_threads(1)
    x, y = make_data()
    model = make_model(options.width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.steps)

    training = (TorchFTElastic if options.torchft else Elastic)(
        model,
        optimizer,
        DataOrder(ITEMS, BATCH, seed=SEED),
        extras={"scheduler": schedule},
        save_every=options.save_every,
        after_step=lambda part: record(options.record, part, training),
    )
    with training:
        for part in training.steps(options.steps):
            loss = nn.functional.mse_loss(model(x[part.indices]), y[part.indices])
            loss.backward()
            part.note(loss.detach())
            time.sleep(options.pause_ms / 1e3)
    if training.stopped is None:
        with torch.no_grad():
            final = nn.functional.mse_loss(model(x), y).item()
        print(json.dumps({"step": training.step, "loss": final}), flush=True)


def record(folder: Path | None, part: Share, training: Elastic) -> None:
    """Write down what this worker has done in a step, for whoever checks it."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    line = {
        "t": time.time(),
        "pid": os.getpid(),
        "step": part.step,
        "attempt": part.attempt,
        "size": training.size,
        "generation": training.generation,
        "items": part.indices.tolist() if part.weight > 0.0 else [],
        "loss": training.loss,
        "idle_s": training.regroups[-1].seconds,
    }
    with (folder / f"{os.environ.get('RANK', '0')}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
