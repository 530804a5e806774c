"""The service mesh: the request path of inference services.

:class:`ServiceMesh` is the whole; its parts can be used alone. All state transitions are the
kernels', so that what is simulated is what runs.
"""

from orchestrator.mesh.attempts import (
    AnsweredError,
    EndpointBusyError,
    NobodyListensError,
    NotSentError,
)
from orchestrator.mesh.discovery import Endpoint, ServiceDiscovery
from orchestrator.mesh.http import HttpTransport
from orchestrator.mesh.mesh import Probe, ServiceCounts, ServiceMesh, Transport
from orchestrator.mesh.policies import CircuitBreaker, LoadBalancer, RateLimiter, RetryPolicy
from orchestrator.mesh.probes import HealthCheck, HealthProber
from orchestrator.mesh.proxy import MeshProxy, ProxyLimits
from orchestrator.mesh.specs import (
    BreakerSpec,
    LimitSpec,
    ProbeSpec,
    RetrySpec,
    ServiceSpec,
    service_records,
)

__all__ = [
    "AnsweredError",
    "BreakerSpec",
    "CircuitBreaker",
    "Endpoint",
    "EndpointBusyError",
    "HealthCheck",
    "HealthProber",
    "HttpTransport",
    "LimitSpec",
    "LoadBalancer",
    "MeshProxy",
    "NobodyListensError",
    "NotSentError",
    "Probe",
    "ProbeSpec",
    "ProxyLimits",
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
