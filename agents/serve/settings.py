"""What a server is started with: options, and files that describe a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.deployment import Guards
from orchestrator.errors import ConfigurationError
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.server.guard.gate import Limits
from orchestrator.types import NodeSpec, TenantSpec

__all__ = ["ClusterFile", "ServeSettings"]


@dataclass(frozen=True)
class ServeSettings:
    """What a server is started with.

    Parameters
    ----------
    dir : Path
        Where everything is that it keeps; made if it does not exist.
    host, port : str, int
        Where it answers; port 0: where it did last if that is free, or a free one.
    mesh_port : int
        Of the services' proxy, on the same host; the same holds for 0.
    agents : int
        Agents that it starts on this machine, ``node-0`` and so on.
    gpus, cpus, memory_gb : int, int, float
        What each declares to have.
    rule : str
        Who decides, by its name; empty: the rule that was set last, or the default.
    bundle : str
        Folder of a learned policy that decides instead; empty: none.
    cluster : Path or None
        A YAML file with ``nodes``, ``tenants`` and ``services``: lists of the fields of
        ``NodeSpec``, ``TenantSpec`` and ``ServiceSpec``.
    etcd : str
        Members that keep the log, ``host:port,...``; empty: a file in the folder keeps it.
    log_level : str
        Least level that is written down.
    json_logs : bool
        The terminal gets lines of JSON, too.
    keep_agents : bool
        When it ends, agents and what they run stay for a minute, for the next server.
    limits : Limits
        What one client may ask of it.
    guards : Guards
        When a learned policy is taken out of charge.
    """

    dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    mesh_port: int = 0
    agents: int = 0
    gpus: int = 0
    cpus: int = 8
    memory_gb: float = 64.0
    rule: str = ""
    bundle: str = ""
    cluster: Path | None = None
    etcd: str = ""
    log_level: str = "info"
    json_logs: bool = False
    keep_agents: bool = False
    limits: Limits = field(default_factory=Limits)
    guards: Guards = field(default_factory=Guards)

    def __post_init__(self) -> None:
        """Refuse what makes no sense, naming the option."""
        object.__setattr__(self, "dir", Path(self.dir))
        for name in ("port", "mesh_port"):
            if not 0 <= getattr(self, name) <= 65535:
                problem = f"serve: '{name}' is {getattr(self, name)}"
                raise ConfigurationError(f"{problem}; give 0 to 65535")
        if not 0 <= self.agents <= 64:
            raise ConfigurationError(f"serve: 'agents' is {self.agents}; give 0 to 64")
        if self.rule and self.bundle:
            raise ConfigurationError("serve: 'rule' and 'bundle' are given; give one of them")
        if self.log_level not in ("debug", "info", "warning", "error"):
            problem = f"serve: 'log_level' is '{self.log_level}'"
            raise ConfigurationError(f"{problem}; use debug, info, warning or error")

    @property
    def local_nodes(self) -> list[NodeSpec]:
        """Nodes of the agents that it starts."""
        links = "NVLink" if self.gpus else "none"
        gpu_memory_gb = 80.0 if self.gpus else 0.0
        return [
            NodeSpec(f"node-{k}", self.gpus, gpu_memory_gb, self.cpus, self.memory_gb, 10.0, links)
            for k in range(self.agents)
        ]


@dataclass(frozen=True)
class ClusterFile:
    """What a file says of a cluster.

    Parameters
    ----------
    nodes : tuple of NodeSpec
        Nodes on other machines; their agents connect by themselves.
    tenants : tuple of TenantSpec
    services : tuple of ServiceSpec
        Rules of services.
    """

    nodes: tuple[NodeSpec, ...] = ()
    tenants: tuple[TenantSpec, ...] = ()
    services: tuple[ServiceSpec, ...] = ()

    @classmethod
    def read(cls, path: Path) -> ClusterFile:
        """Read a file.

        Raises
        ------
        ConfigurationError
            If it cannot be read, or holds something else.
        """
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{path}: {error}; give a YAML file") from error
        kinds: dict[str, Any] = {"nodes": NodeSpec, "tenants": TenantSpec, "services": ServiceSpec}
        if not isinstance(given, dict) or set(given) - set(kinds):
            raise ConfigurationError(
                f"{path}: it is not a mapping of {', '.join(kinds)}; write one"
            )
        found: dict[str, Any] = {}
        for name, kind in kinds.items():
            try:
                found[name] = tuple(kind(**fields) for fields in given.get(name) or ())
            except TypeError as error:
                problem = f"{path}, {name}: {error}"
                raise ConfigurationError(f"{problem}; see {kind.__name__}") from error
        return cls(**found)
