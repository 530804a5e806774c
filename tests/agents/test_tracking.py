import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.files import write_csv
from agents.plots.style import figure_file
from agents.tracking import NullTracker, TensorBoardTracker, Tracker, WandbTracker
from orchestrator.errors import ConfigurationError


def test_null_tracker_takes_anything():
    tracker: Tracker = NullTracker()
    tracker.describe({"seed": 1}, ["quick"])
    tracker.log(1, {"a": 1.0})
    tracker.publish(Path("nowhere"))
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


def records(path: Path) -> Iterator[Any]:
    """What an offline run holds: LevelDB's log format behind seven bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, block, parts = path.read_bytes(), 32768, b""
    at = 7
    while at + 7 <= len(data):
        if block - at % block < 7:  # no room for a record's head: the block ends here
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts = (b"" if kind in (1, 2) else parts) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(parts)


@pytest.mark.slow
def test_wandb_offline_has_config_tags_numbers_tables_and_pictures(tmp_path, monkeypatch):
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    folder = tmp_path / "run"
    write_csv(folder / "history.csv", ("seconds", "score"), [(0.5, 0.25), (1.5, None)])
    write_csv(folder / "table.csv", ("policy", "mean"), [("sjf", 2.5)])
    write_csv(folder / "jobs.csv", ("policy",), [("too long to report",)])
    with figure_file(folder / "curve.png", (2.0, 2.0)) as (_, axes):
        axes.plot([0, 1])
    tracker = WandbTracker("quartermaster", tmp_path / "wandb", name="mine")
    tracker.describe({"seed": 1, "agent": {"sigma": 0.5}}, ["agent=cma", "x" * 99])
    tracker.log(0, {"loss": 1.0})
    tracker.log(1, {"loss": 0.5})
    tracker.publish(folder)
    tracker.close()
    tracker.close()
    (run,) = (tmp_path / "wandb").glob("wandb/offline-run-*")
    found = []
    while not any(one.WhichOneof("record_type") == "exit" for one in found):
        time.sleep(0.05)  # another process writes it, and may be behind
        found = list(records(next(run.glob("*.wandb"))))
    history = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in found
        if one.WhichOneof("record_type") == "history"
    ]
    assert [row["loss"] for row in history if "loss" in row] == [1.0, 0.5]
    assert {"history", "table", "curve"} <= history[-1].keys()
    config = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for one in found
        for item in (*one.config.update, *one.run.config.update)
    }
    assert (config["seed"], config["agent"]) == (1, {"sigma": 0.5})
    tags = [tuple(one.run.tags) for one in found if one.WhichOneof("record_type") == "run"]
    assert ("agent=cma", "x" * 64) in tags
    media = run / "files" / "media"
    tables = {path.name.split("_")[0]: path for path in (media / "table").iterdir()}
    assert set(tables) == {"history", "table"}
    kept = json.loads(tables["history"].read_text())
    assert (kept["columns"], kept["data"]) == (["seconds", "score"], [[0.5, 0.25], [1.5, None]])
    assert len(list((media / "images").glob("curve_*.png"))) == 1


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
