"""The service mesh: the request path of inference services.

:class:`ServiceMesh` is the whole; its parts can be used alone. All state transitions are the
kernels', so that what is simulated is what runs.
"""

from orchestrator.mesh.http import HttpTransport
from orchestrator.mesh.mesh import (
    Endpoint,
    Probe,
    ServiceCounts,
    ServiceDiscovery,
    ServiceMesh,
    Transport,
)
from orchestrator.mesh.policies import CircuitBreaker, LoadBalancer, RateLimiter, RetryPolicy
from orchestrator.mesh.probes import HealthCheck, HealthProber
from orchestrator.mesh.specs import (
    BreakerSpec,
    LimitSpec,
    ProbeSpec,
    RetrySpec,
    ServiceSpec,
    service_records,
)

__all__ = [
    "BreakerSpec",
    "CircuitBreaker",
    "Endpoint",
    "HealthCheck",
    "HealthProber",
    "HttpTransport",
    "LimitSpec",
    "LoadBalancer",
    "Probe",
    "ProbeSpec",
    "RateLimiter",
    "RetryPolicy",
    "RetrySpec",
    "ServiceCounts",
    "ServiceDiscovery",
    "ServiceMesh",
    "ServiceSpec",
    "Transport",
    "service_records",
]
