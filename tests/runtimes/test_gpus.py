"""GPUs as NVML tells of them: found, reported, handed out, and missed. NVML itself is made up."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.node.gpus import GpuReader
from orchestrator.runtimes import discover_node
from tests.runtimes.cluster import Cluster
from tests.runtimes.stage import until

_NVML = """
import json, os
from types import SimpleNamespace
NVML_NVLINK_MAX_LINKS = 4
class NVMLError(Exception): pass
def _state(): return json.load(open(os.environ["FAKE_NVML"]))
def nvmlInit():
    if "error" in _state(): raise NVMLError(_state()["error"])
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return len(_state()["gpus"])
def nvmlDeviceGetHandleByIndex(index): return _state()["gpus"][index] | {"index": index}
def nvmlDeviceGetName(gpu): return gpu["name"]
def nvmlDeviceGetUUID(gpu): return f"GPU-{gpu['index']}".encode()
def nvmlDeviceGetMemoryInfo(gpu):
    if gpu.get("lost"): raise NVMLError("GPU is lost")
    return SimpleNamespace(total=gpu["mib"] * 2**20, used=gpu.get("used", 0) * 2**20)
def nvmlDeviceGetUtilizationRates(gpu):
    if "use" not in gpu: raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=gpu["use"], memory=0)
def nvmlDeviceGetNvLinkState(gpu, link):
    if "links" not in gpu: raise NVMLError("Not Supported")
    return int(link < gpu["links"])
"""
"""What stands for pynvml: its functions, as version 13 of nvidia-ml-py has them."""


def _write(folder: Path, *gpus: dict[str, object], **others: object) -> None:
    path = folder / "nvml.json.new"
    path.write_text(json.dumps({"gpus": gpus, **others}))
    path.replace(folder / "nvml.json")


def _gpu(**fields: object) -> dict[str, object]:
    return {"name": "H100", "mib": 81920, "use": 0} | fields


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An NVML of two GPUs, here and in all processes that are started."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "pynvml.py").write_text(_NVML)
    _write(tmp_path, _gpu(links=2), _gpu(links=2))
    monkeypatch.setenv("FAKE_NVML", str(tmp_path / "nvml.json"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    module = ModuleType("pynvml")
    exec(_NVML, module.__dict__)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_gpus_are_read_and_one_that_is_lost_hides_no_other(
    nvml: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, _gpu(used=1000, use=73), _gpu(lost=True), {"name": "MIG", "mib": 10})
    reader = GpuReader()
    found = reader.read()
    assert found is not None
    assert [(gpu.index, gpu.name, gpu.uuid, gpu.memory_mb) for gpu in found] == [
        (0, "H100", "GPU-0", 81920),
        (2, "MIG", "GPU-2", 10),
    ]
    assert [(gpu.used_mb, gpu.use_percent) for gpu in found] == [(1000, 73), (0, 0)]
    assert not reader.linked
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 9")
    assert [gpu.index for gpu in reader.read() or ()] == [2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert reader.read() == ()
    reader.close()
    assert reader.read() is None


def test_without_nvml_or_a_driver_nobody_can_say(
    nvml: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, error="Driver Not Loaded")
    assert not GpuReader().available
    assert GpuReader().read() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    assert GpuReader().read() is None
    assert discover_node("n").gpus == 0


def test_a_node_is_discovered(nvml: ModuleType, tmp_path: Path) -> None:
    spec = discover_node("n0", rack=3)
    assert (spec.node_id, spec.gpus, spec.gpu_memory_gb, spec.rack) == ("n0", 2, 80.0, 3)
    assert (spec.gpu_topology, spec.gpu_model) == ("NVLink", "H100")
    assert spec.cpu_cores == os.cpu_count()
    assert spec.memory_gb > 0.5
    assert spec.network_bandwidth_gbps >= 1.0
    _write(tmp_path, _gpu(), _gpu(name="A100"))
    assert discover_node("n1", gpu_model="mixed").gpu_topology == "PCIe"
    with pytest.raises(ConfigurationError, match=r"several models \(A100, H100\); run an agent"):
        discover_node("n1")


async def test_agents_tell_of_their_gpus_and_what_is_declared_and_not_there_is_said(
    nvml: ModuleType, cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.nodes = {"n0": {}}  # four GPUs of 16 GiB are declared
    with caplog.at_level(logging.WARNING):
        await cluster.open()
    assert "node 'n0': 4 GPUs are declared, and 2 are there" in caplog.text
    _write(tmp_path, *[_gpu(use=90, used=500)] * 4)

    def told() -> dict[str, object]:
        return dict(cluster.orchestrator.get_cluster_status()["devices"]["n0"])

    assert [gpu["uuid"] for gpu in told()["found"]] == ["GPU-0", "GPU-1"]
    await until(lambda: len(told()["found"]) == 4)  # with one of the next beats
    assert (told()["declared"], told()["problem"]) == (4, None)
    assert {gpu["use_percent"] for gpu in told()["found"]} == {90}
    await cluster.submit("a", 1, 2, 0.1)
    await until(lambda: cluster.ended("a"))
    (said,) = cluster.said("a")
    assert said["gpus"] == "0,1"


async def test_an_agent_that_was_left_some_gpus_hands_out_those(
    nvml: ModuleType, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, *[_gpu()] * 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    cluster.nodes = {"n0": {}}
    await cluster.open()
    devices = cluster.orchestrator.get_cluster_status()["devices"]["n0"]
    assert [gpu["index"] for gpu in devices["found"]] == [4, 5, 6, 7]
    assert devices["problem"] is None
    await cluster.submit("a", 2, 2, 0.1)
    await until(lambda: cluster.ended("a"))
    assert [one["gpus"] for one in cluster.said("a")] == ["4,5", "6,7"]
