"""What a policy bundle says of itself: plain data, and what it refuses to be used for."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from envs.config import EnvConfig
from envs.reward import RewardConfig
from envs.scenario import Scenario
from orchestrator.errors import SchemaMismatchError
from orchestrator.kernels.codes import Information, Placement, RuleKey, Scaling
from orchestrator.kernels.features import Encoding
from orchestrator.kernels.session import Sampling
from orchestrator.scheduler.schema import FeatureSchema

__all__ = [
    "FORMAT",
    "Manifest",
    "describe_environment",
    "describe_scenario",
    "restore_environment",
    "scenario_text",
]

FORMAT = 1
"""Version of the layout; readers refuse any other."""

_LONG = 64  # numbers of an array
_LIBRARIES = ("numpy", "numba", "cma", "torch", "stable-baselines3", "sb3-contrib", "gymnasium")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`.
    name : str
        The policy's name in tables.
    features : mapping
        ``FeatureSchema.as_dict()`` of what it was trained on.
    digest : str
        ``FeatureSchema.digest`` of the same.
    actions : mapping
        Action layout in training: window, candidates, victims, heads.
    environment : mapping
        The environment in training; see :func:`restore_environment`.
    seed : int
        Seed of the training run.
    scenario : mapping, optional
        What it was trained in; see :func:`describe_scenario`.
    training : mapping, optional
        Configuration of the trainer.
    model : mapping, optional
        What the loader must know beside the weights, such as layer sizes.
    versions : mapping of str to str, optional
        Libraries that the bundle was made with.
    weights : str, optional
        File of the weights; filled in by :func:`save_bundle`.
    weights_sha256 : str, optional
        Its checksum; filled in likewise.
    format : int, optional
        Version of the layout.
    """

    kind: str
    name: str
    features: Mapping[str, Any]
    digest: str
    actions: Mapping[str, Any]
    environment: Mapping[str, Any]
    seed: int
    scenario: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""
    weights_sha256: str = ""
    format: int = FORMAT

    @classmethod
    def describe(
        cls,
        kind: str,
        name: str,
        config: EnvConfig,
        seed: int,
        *,
        schema: FeatureSchema | None = None,
        training: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
        scenario: Scenario | None = None,
    ) -> Manifest:
        """The manifest of a policy that was trained in the environment ``config``.

        ``schema`` is that of ``config`` unless it is given.
        """
        schema = schema or config.schema
        layout = schema.actions
        return cls(
            kind=kind,
            name=name,
            features=schema.as_dict(),
            digest=schema.digest,
            actions={
                "window": layout.window,
                "candidates": layout.candidates,
                "victims": layout.victims,
                "can_wait": layout.can_wait,
                "heads": [asdict(head) for head in layout.heads],
            },
            environment=describe_environment(config),
            seed=seed,
            scenario=describe_scenario(scenario or Scenario()),
            training=_plain(training or {}),
            model=_plain(model or {}),
            versions=_versions(),
        )

    def require(self, schema: FeatureSchema) -> None:
        """Refuse to serve an environment with other features or actions.

        Raises
        ------
        SchemaMismatchError
            Naming what differs.
        """
        if self.digest == schema.digest:
            return
        here = schema.as_dict()
        keys = [*here, *(key for key in self.features if key not in here)]
        pairs = ((key, self.features.get(key), here.get(key)) for key in keys)
        parts = [_difference(key, mine, other) for key, mine, other in pairs if mine != other]
        found = "; ".join(parts) or "the digests differ, so the manifest was edited"
        raise SchemaMismatchError(
            f"policy '{self.name}' does not fit this environment: {found}. Configure the "
            f"environment as the policy was trained (the manifest's 'environment'), or retrain it"
        )


def describe_environment(config: EnvConfig) -> dict[str, Any]:
    """An environment's configuration as plain data, enumerations by name."""
    described: dict[str, Any] = _plain(asdict(config))
    return described


def describe_scenario(scenario: Scenario) -> dict[str, Any]:
    """What distinguishes a scenario from one in which nothing happens, as plain data.

    Of series, which may be long, only type and shape are said.
    """
    nothing = _in_short(asdict(Scenario()))
    found = _in_short(asdict(scenario))
    return {name: value for name, value in found.items() if value != nothing[name]}


def _in_short(value: Any) -> Any:
    """Plain data without long arrays."""
    if isinstance(value, Mapping):
        return {name: _in_short(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_short(item) for item in value]
    if isinstance(value, np.ndarray) and value.size > _LONG:
        return f"{value.dtype} {list(value.shape)}"
    found = _plain(value)
    plain = found is None or isinstance(found, str | int | float | list)
    return found if plain else type(found).__name__


def scenario_text(described: Mapping[str, Any]) -> str:
    """A described scenario in a line: numbers and names in full, of anything else how many."""
    parts = []
    for name, value in described.items():
        if name == "failures":
            value = ", ".join(
                f"{key} {value[key]:g}" for key in ("faults_per_node_day", "rate_scale")
            )
        elif isinstance(value, list | Mapping):
            names = [item["name"] for item in value if isinstance(item, Mapping) and "name" in item]
            value = ", ".join(names) if names else str(len(value))
        parts.append(f"{name.replace('_', ' ')}: {value}")
    return "; ".join(parts)


def restore_environment(described: Mapping[str, Any]) -> EnvConfig:
    """The inverse of :func:`describe_environment`."""
    values = dict(described)
    values["reward"] = RewardConfig(**values["reward"])
    values["placements"] = tuple(Placement[name.upper()] for name in values["placements"])
    for name, kind in (
        ("window_order", RuleKey),
        ("information", Information),
        ("autoscale", Scaling),
        ("encoding", Encoding),
        ("sampling", Sampling),
    ):
        if name in values:  # older bundles lack the later ones
            values[name] = kind[values[name].upper()]
    return EnvConfig(**values)


def _plain(value: Any) -> Any:
    """What JSON can hold, and reads back as it was written."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def _difference(key: str, mine: Any, here: Any) -> str:
    """What distinguishes two values of a feature schema, in words."""
    if not isinstance(mine, list) or not isinstance(here, list):
        return f"'{key}' is {mine!r} in the bundle and {here!r} here"
    lacking = [name for name in here if name not in mine]
    extra = [name for name in mine if name not in here]
    if not lacking and not extra:
        return f"'{key}' has another order ({mine} in the bundle, {here} here)"
    parts = []
    if lacking:
        parts.append(f"lacks {', '.join(lacking)}")
    if extra:
        parts.append(f"has, unlike here, {', '.join(extra)}")
    return f"'{key}' of the bundle {' and '.join(parts)}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in ("quartermaster", *_LIBRARIES):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
