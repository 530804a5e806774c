"""A replica of the service: loads the model's file, and answers requests until it is told to stop.

python examples/inference_service/serve.py --model model.pt
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator import RequestRejectedError
from orchestrator.worker import InferenceServer

WIDTH, CLASSES = 16, 4


def make_model() -> nn.Module:
    """The network whose weights the file holds."""
    return nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def main() -> None:
    """Classify what is asked for."""
    parser = argparse.ArgumentParser(description="Answer requests.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work-ms", type=float, default=0.0, help="slower, as a large model is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = make_model()
    model.load_state_dict(torch.load(options.model, weights_only=True))

    def classify(inputs: Any) -> dict[str, Any]:
        try:
            x = torch.tensor(inputs, dtype=torch.float32).reshape(-1, WIDTH)
        except (TypeError, ValueError, RuntimeError) as error:
            raise RequestRejectedError(f"{error}; give lists of {WIDTH} numbers") from None
        with torch.inference_mode():
            labels = model(x).argmax(dim=1).tolist()
        time.sleep(options.work_ms / 1e3)
        return {"labels": labels, "pid": os.getpid()}

    InferenceServer(classify).serve()


if __name__ == "__main__":
    main()
