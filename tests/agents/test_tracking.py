import subprocess
import sys

import pytest

from agents.tracking import NullTracker, TensorBoardTracker, Tracker, WandbTracker
from orchestrator.errors import ConfigurationError


def test_null_tracker_takes_anything():
    tracker: Tracker = NullTracker()
    tracker.log(1, {"a": 1.0})
    tracker.close()
    tracker.close()


def test_tensorboard_event_file_holds_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoardTracker(tmp_path / "run")
    for step in range(3):
        tracker.log(step, {"loss": 1.0 / (step + 1), "speed": 10.0 * step})
    tracker.close()
    tracker.close()
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    values = [tensor.tensor_proto.float_val[0] for tensor in events.Tensors("loss")]
    assert values == pytest.approx([1.0, 0.5, 1 / 3])
    assert [tensor.step for tensor in events.Tensors("speed")] == [0, 1, 2]


@pytest.mark.slow
def test_wandb_offline_writes_into_its_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    tracker = WandbTracker("quartermaster", tmp_path / "wandb", config={"seed": 1})
    tracker.log(0, {"loss": 1.0})
    tracker.log(1, {"loss": 0.5})
    tracker.close()
    tracker.close()
    runs = list((tmp_path / "wandb").glob("wandb/offline-run-*/*.wandb"))
    assert len(runs) == 1
    assert runs[0].stat().st_size > 0


def test_unknown_wandb_mode_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="'ofline'; use one of: offline"):
        WandbTracker("quartermaster", tmp_path, mode="ofline")


def test_libraries_are_imported_only_when_used():
    code = (
        "import sys, agents.tracking; "
        "print([m for m in ('wandb', 'tensorboard', 'torch') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
