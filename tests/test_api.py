"""The public interface: what the three packages export, and the page that lists it."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]

# Component tree of the contract, and what a user needs besides to write a program.
_COMPONENTS = (
    "InfrastructureOrchestrator",
    *("BinPacker", "PriorityQueue", "FairShareScheduler", "GangScheduler"),
    *("TopologyAwareScheduler", "HorizontalScaler", "VerticalScaler", "PredictiveScaler"),
    *("CooldownManager", "ServiceMesh", "ServiceDiscovery", "LoadBalancer", "CircuitBreaker"),
    *("RetryPolicy", "RateLimiter", "GPUAllocator", "MemoryManager", "NetworkBandwidthManager"),
    *("StorageQuotaManager", "TrainingJobManager", "InferenceJobManager", "BatchProcessor"),
    *("ElasticTrainer", "OrchestratorMetrics", "ClusterUtilization", "SchedulingLatency"),
    *("JobCompletionRate", "ScalingEfficiency"),
)
_ORCHESTRATOR = (
    *("JobSpec", "JobState", "JobPriority", "NodeSpec", "TenantSpec", "ScalingDecision"),
    *("ScalingDirection", "JobKind", "QuotaMode", "Placement", "Topology", "RuleKey", "Reason"),
    *("QuartermasterError", "ValidationError", "Semantics", "ClusterShape", "Engine", "Snapshot"),
    *("VirtualClock", "WallClock", "RULES", "Rule", "rule_named", "Policy", "RulePolicy"),
    *("SimulatedRuntime", "SimulatedProvisioner", "in_memory", "InMemoryConsensus", "Plan"),
    *("PlaceJob", "Wait", "Entry", "Submit", "WorkerExited", "StartJob", "ServiceSpec"),
)


@pytest.mark.parametrize("package", ["orchestrator", "envs", "agents"])
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    names = module.__all__
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []
    assert set(names) <= set(dir(module))
    with pytest.raises(AttributeError, match="attribute Sesion"):
        _ = module.Sesion


@pytest.mark.parametrize("package", ["orchestrator", "envs", "agents"])
def test_every_class_and_function_says_what_it_is(package: str) -> None:
    module = importlib.import_module(package)
    own = {name: getattr(module, name) for name in module.__all__}
    named = {name: x for name, x in own.items() if inspect.isclass(x) or inspect.isfunction(x)}
    assert len(named) > 20
    assert [name for name, x in named.items() if not inspect.getdoc(x)] == []
    assert [name for name, x in named.items() if not x.__module__.startswith(package)] == []


@pytest.mark.parametrize("name", [*_COMPONENTS, *_ORCHESTRATOR])
def test_the_orchestrator_exports(name: str) -> None:
    assert name in importlib.import_module("orchestrator").__all__


def test_documents_list_what_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "docs/document.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
    )
    assert done.returncode == 0, done.stderr
