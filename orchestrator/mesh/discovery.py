"""Discovery: which endpoints a service has, and which of them may get requests."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import UnknownServiceError, ValidationError

__all__ = ["Endpoint", "ServiceDiscovery", "require_name"]


def require_name(subject: str, field: str, value: object) -> None:
    """Refuse what can name no service and no endpoint."""
    if not isinstance(value, str):
        raise ValidationError(subject, field, f"is {value!r:.80}", "give its name, a text")


@dataclass
class Endpoint:
    """One replica, by its address."""

    address: str
    healthy: bool = True
    draining: bool = False

    @property
    def routable(self) -> bool:
        """Whether new requests may go there."""
        return self.healthy and not self.draining


class ServiceDiscovery:
    """A register of services and their endpoints, in the order of their registration."""

    def __init__(self) -> None:
        self._services: dict[str, dict[str, Endpoint]] = {}

    @property
    def services(self) -> list[str]:
        """Names of the services."""
        return list(self._services)

    def declare(self, service: str) -> None:
        """Make a service known, with no endpoints yet; nothing happens if it is."""
        require_name("ServiceDiscovery", "service", service)
        if not service:
            raise ValidationError("ServiceDiscovery", "service", "is empty", "give it a name")
        self._services.setdefault(service, {})

    def forget(self, service: str) -> None:
        """Take a service and its endpoints off the register."""
        self._of(service)
        del self._services[service]

    def register(self, service: str, address: str, *, healthy: bool = True) -> Endpoint:
        """Add an endpoint, or bring one that is there back from draining."""
        require_name(f"service '{service}'", "address", address)
        if not address:
            subject = f"service '{service}'"
            raise ValidationError(subject, "address", "is empty", "give the endpoint's address")
        self.declare(service)
        endpoint = Endpoint(address, healthy)
        self._services[service][address] = endpoint
        return endpoint

    def deregister(self, service: str, address: str) -> None:
        """Take an endpoint off the register."""
        self.endpoint(service, address)
        del self._services[service][address]

    def drain(self, service: str, address: str) -> None:
        """Send an endpoint no new requests; those that it has may finish."""
        self.endpoint(service, address).draining = True

    def undrain(self, service: str, address: str) -> None:
        """Send an endpoint requests again."""
        self.endpoint(service, address).draining = False

    def set_health(self, service: str, address: str, healthy: bool) -> None:
        """Note whether an endpoint is well."""
        self.endpoint(service, address).healthy = healthy

    def knows(self, service: str, address: str) -> bool:
        """Whether there is such an endpoint."""
        require_name("ServiceDiscovery", "service", service)
        require_name(f"service '{service}'", "address", address)
        return address in self._services.get(service, {})

    def endpoint(self, service: str, address: str) -> Endpoint:
        """Look up one endpoint.

        Raises
        ------
        UnknownServiceError
            When there is no such service, or no such endpoint.
        """
        endpoints = self._of(service)
        require_name(f"service '{service}'", "address", address)
        if address not in endpoints:
            raise UnknownServiceError(address, list(endpoints))
        return endpoints[address]

    def endpoints(self, service: str) -> list[Endpoint]:
        """All endpoints of a service, sick and draining ones too."""
        return list(self._of(service).values())

    def lookup(self, service: str) -> list[str]:
        """Addresses of a service's endpoints that are well and not draining.

        Raises
        ------
        UnknownServiceError
            When there is no such service.
        """
        return [e.address for e in self._of(service).values() if e.routable]

    def _of(self, service: str) -> dict[str, Endpoint]:
        require_name("ServiceDiscovery", "service", service)
        if service not in self._services:
            raise UnknownServiceError(service, self.services)
        return self._services[service]
