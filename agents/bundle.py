"""Policy bundles: one directory with all that it takes to run a trained policy, and to trust it.

=================  ==============================================================================
``manifest.json``  what the policy is: kind, features, actions, how it was trained, versions
``weights.npz``    arrays, or ``weights.pt`` where a kind keeps torch tensors
``card.json``      evaluation card: tables, and the one command that regenerates the bundle
``card.md``        the same for people
``lookahead.json`` if the policy thinks ahead where it is put in charge: how far
=================  ==============================================================================

A bundle appears whole or not at all. Loading one runs no code that the bundle brings: weights are
plain arrays (no pickles), and the loaders of :data:`KINDS` are imported when they are needed, so
that a ranker loads without torch.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from agents.files import markdown_table, versions, write_json, write_text
from agents.problem import BatchPolicy
from envs.config import EnvConfig
from envs.reward import RewardConfig
from envs.scenario import Scenario
from orchestrator.errors import ConfigurationError, QuartermasterError, SchemaMismatchError
from orchestrator.scheduling.ahead import LookaheadConfig
from orchestrator.scheduling.schema import FeatureSchema

__all__ = [
    "FORMAT",
    "KINDS",
    "BundleError",
    "CardTable",
    "EvaluationCard",
    "Manifest",
    "Origin",
    "PolicyParts",
    "describe_environment",
    "describe_scenario",
    "load_bundle",
    "load_weights",
    "read_card",
    "read_lookahead",
    "read_manifest",
    "restore_environment",
    "save_bundle",
    "scenario_text",
    "write_card",
    "write_lookahead",
]


FORMAT = 1
"""Version of the layout; readers refuse any other."""


KINDS: dict[str, str] = {
    "formula": "agents.evolved.formula:load_formula",
    "linear_ranker": "agents.linear.policy:load_ranker",
    "linear_scorer": "agents.linear.policy:load_scorer",
    "ppo": "agents.ppo.model:load_policy",
    "set_network": "agents.linear.policy:load_set_ranker",
}
"""Kinds of policies, and who makes one of its parts: ``module:function`` (manifest, weights)."""


_MANIFEST, _CARD, _CARD_TEXT = "manifest.json", "card.json", "card.md"
_LOOKAHEAD = "lookahead.json"
_ARRAYS, _TENSORS = "weights.npz", "weights.pt"
_LATER = ("scenario",)  # fields that bundles of earlier releases do not have
_LONG = 64  # numbers of an array

Weights = Mapping[str, Any]
Loader = Callable[["Manifest", Weights], BatchPolicy]
Cell = str | int | float | None


class BundleError(QuartermasterError, ValueError):
    """A policy bundle cannot be read or written.

    Parameters
    ----------
    path : Path
        The file or directory.
    problem : str
        What is wrong with it.
    remedy : str
        What to do about it.
    """

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"policy bundle {path}: {problem}; {remedy}")
        self.path = path
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True)
class PolicyParts:
    """What a policy is made of.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`, which make the policy of its parts again.
    weights : mapping of str to array
        NumPy arrays; or torch tensors, such as a state dictionary.
    name : str, optional
        The policy's name in tables; empty: its kind.
    model : mapping, optional
        What the loader must know beside the weights, such as layer sizes.
    """

    kind: str
    weights: Weights
    name: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where a policy comes from.

    Parameters
    ----------
    config : EnvConfig
        The environment that it was trained in.
    seed : int
        Seed of the training run.
    scenario : Scenario, optional
        What the windows happened in that it was trained on.
    training : mapping, optional
        Configuration of the trainer.
    """

    config: EnvConfig
    seed: int
    scenario: Scenario = field(default_factory=Scenario)
    training: Mapping[str, Any] = field(default_factory=dict)


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
    def describe(cls, parts: PolicyParts, origin: Origin) -> Manifest:
        """The manifest of a policy, but for the file of its weights."""
        schema = origin.config.schema
        layout = schema.actions
        return cls(
            kind=parts.kind,
            name=parts.name or parts.kind,
            features=schema.as_dict(),
            digest=schema.digest,
            actions={
                "window": layout.window,
                "candidates": layout.candidates,
                "victims": layout.victims,
                "can_wait": layout.can_wait,
                "heads": [asdict(head) for head in layout.heads],
            },
            environment=describe_environment(origin.config),
            seed=origin.seed,
            scenario=describe_scenario(origin.scenario),
            training=_plain(origin.training),
            model=_plain(parts.model),
            versions=versions(),
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


# --- Writing and reading -------------------------------------------------------------------------


def save_bundle(
    directory: str | Path, parts: PolicyParts, origin: Origin, card: EvaluationCard | None = None
) -> Path:
    """Write a bundle; an earlier one of the same name is replaced, card and all.

    Parameters
    ----------
    directory : str or Path
        Becomes the bundle. It must not exist, be empty, or be a bundle.
    parts : PolicyParts
        The policy.
    origin : Origin
        What it was trained in, and how.
    card : EvaluationCard or None, optional
        None: to be added by :func:`write_card`.

    Returns
    -------
    Path
        The directory.
    """
    target = Path(directory)
    _check_kind(target, parts.kind)
    occupied = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if occupied and not (target / _MANIFEST).is_file():
        raise BundleError(target, "exists and is no bundle", "choose another directory")
    manifest = Manifest.describe(parts, origin)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the final rename stays within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        file = _write_weights(new, parts.weights)
        manifest = replace(manifest, weights=file.name, weights_sha256=_sha256(file))
        write_json(new / _MANIFEST, asdict(manifest))
        if card is not None:
            write_card(new, card)
        _exchange(target, new, Path(scratch) / "old")
    return target


def read_manifest(directory: str | Path) -> Manifest:
    """Read what a bundle says of itself, without its weights.

    Raises
    ------
    BundleError
        When it is absent, damaged, or of another version of the layout.
    """
    path = Path(directory) / _MANIFEST
    content = _read_json(path)
    found = content.get("format")
    if found != FORMAT:
        remedy = "use the release that wrote it, or train the policy anew"
        raise BundleError(path, f"has format {found!r}, not {FORMAT}", remedy)
    known = {item.name: item for item in fields(Manifest)}
    missing = [name for name in known if name not in content and name not in _LATER]
    unknown = [name for name in content if name not in known]
    if missing or unknown:
        problem = " and ".join(
            f"{verb} field '{names[0]}'"
            for verb, names in (("lacks", missing), ("has the unknown", unknown))
            if names
        )
        raise BundleError(path, problem, "the file was edited or damaged: restore the bundle")
    manifest = Manifest(**content)
    _check_kind(path, manifest.kind)
    return manifest


def load_weights(directory: str | Path, manifest: Manifest) -> Weights:
    """Read the weights of a bundle and check them against its manifest.

    Raises
    ------
    BundleError
        When they are absent, damaged or not those that the manifest belongs to.
    """
    path = Path(directory) / manifest.weights
    if manifest.weights not in (_ARRAYS, _TENSORS) or not path.is_file():
        raise BundleError(path, "holds no weights", "the bundle is incomplete: restore it")
    if _sha256(path) != manifest.weights_sha256:
        problem = f"does not have the checksum that {_MANIFEST} names"
        raise BundleError(path, problem, "the file is damaged or was exchanged: restore the bundle")
    try:
        if manifest.weights == _ARRAYS:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        import torch

        state: Weights = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise BundleError(path, f"cannot be read ({error})", "restore the bundle") from error


def load_bundle(directory: str | Path, schema: FeatureSchema | None = None) -> BatchPolicy:
    """Make the policy of a bundle.

    Parameters
    ----------
    directory : str or Path
    schema : FeatureSchema or None, optional
        Of the environment that the policy is to serve; None: it is not checked.

    Returns
    -------
    BatchPolicy

    Raises
    ------
    BundleError
        When the bundle is incomplete or damaged.
    SchemaMismatchError
        When the policy was trained on other features or actions.
    """
    manifest = read_manifest(directory)
    if schema is not None:
        manifest.require(schema)
    weights = load_weights(directory, manifest)
    module, function = KINDS[manifest.kind].split(":")
    loader: Loader = getattr(importlib.import_module(module), function)
    try:
        return loader(manifest, weights)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        problem = f"does not hold a policy of kind '{manifest.kind}' ({error})"
        raise BundleError(Path(directory), problem, "train the policy anew") from error


def write_lookahead(directory: str | Path, lookahead: LookaheadConfig) -> None:
    """Let the policy of a bundle think ahead wherever it is put in charge of a live cluster."""
    write_json(Path(directory) / _LOOKAHEAD, asdict(lookahead))


def read_lookahead(directory: str | Path) -> LookaheadConfig | None:
    """How far the policy of a bundle thinks ahead; None: it does not.

    Raises
    ------
    BundleError
        When the file is damaged, or names what there is not.
    """
    path = Path(directory) / _LOOKAHEAD
    if not path.is_file():
        return None
    try:
        return LookaheadConfig(**_read_json(path))
    except (ConfigurationError, TypeError) as error:
        remedy = "write it anew, or delete it: the policy then does not think ahead"
        raise BundleError(path, f"is no lookahead ({error})", remedy) from None


def write_card(directory: str | Path, card: EvaluationCard) -> None:
    """Write, or replace, the evaluation card of a bundle."""
    write_json(Path(directory) / _CARD, card.as_dict())
    write_text(Path(directory) / _CARD_TEXT, card.to_markdown())


def read_card(directory: str | Path) -> EvaluationCard:
    """Read the evaluation card of a bundle."""
    path = Path(directory) / _CARD
    try:
        return EvaluationCard.from_dict(_read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(path, f"is no evaluation card ({error})", "evaluate again") from None


# --- Evaluation cards ----------------------------------------------------------------------------


@dataclass(frozen=True)
class CardTable:
    """A table of a card.

    Parameters
    ----------
    title : str
        What was measured, on what.
    columns : sequence of str
    rows : sequence of sequences
        Text and numbers; None: not measured.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        """Check that every row has all columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table '{self.title}': a row has {len(row)} cells, but there are "
                    f"{len(self.columns)} columns"
                )

    def to_markdown(self) -> str:
        """The table in Markdown, numbers to four significant digits."""
        rows = [[_text(cell) for cell in row] for row in self.rows]
        return f"**{self.title}**\n\n{markdown_table(self.columns, rows)}"


@dataclass(frozen=True)
class EvaluationCard:
    """What is known of a policy.

    Parameters
    ----------
    title : str
    command : str
        The one command that trains and evaluates the policy anew.
    tables : sequence of CardTable
    notes : sequence of str, optional
        What a reader must know to judge the tables, such as the data that was trained on.
    """

    title: str
    command: str
    tables: Sequence[CardTable] = ()
    notes: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EvaluationCard:
        """The inverse of :meth:`as_dict`."""
        tables = tuple(CardTable(**table) for table in content["tables"])
        return cls(content["title"], content["command"], tables, tuple(content["notes"]))

    def to_markdown(self) -> str:
        """The card for people."""
        parts = [f"# {self.title}"]
        parts += [table.to_markdown() for table in self.tables]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        parts.append(f"Regenerate with:\n\n```\n{self.command}\n```")
        return "\n\n".join(parts) + "\n"


def _text(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return str(cell)


# --- What a manifest says of environments and scenarios ------------------------------------------


def describe_environment(config: EnvConfig) -> dict[str, Any]:
    """An environment's configuration as plain data, enumerations by name."""
    described: dict[str, Any] = _plain(asdict(config))
    return described


def restore_environment(described: Mapping[str, Any]) -> EnvConfig:
    """The inverse of :func:`describe_environment`."""
    values = dict(described)
    values["reward"] = RewardConfig(**values["reward"])
    return EnvConfig(**values)


def describe_scenario(scenario: Scenario) -> dict[str, Any]:
    """What distinguishes a scenario from one in which nothing happens, as plain data.

    Of series, which may be long, only type and shape are said.
    """
    nothing = _in_short(asdict(Scenario()))
    found = _in_short(asdict(scenario))
    return {name: value for name, value in found.items() if value != nothing[name]}


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


# --- Files ---------------------------------------------------------------------------------------


def _exchange(target: Path, new: Path, old: Path) -> None:
    """Move ``new`` to ``target``, and what was there to ``old``; all or nothing."""
    if not target.exists():
        new.rename(target)
        return
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise


def _check_kind(path: Path, kind: str) -> None:
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise BundleError(path, f"is of the unknown kind '{kind}'", f"known kinds: {known}")


def _write_weights(directory: Path, weights: Weights) -> Path:
    if all(isinstance(value, np.ndarray) for value in weights.values()):
        path = directory / _ARRAYS
        np.savez(path, allow_pickle=False, **weights)
        return path
    import torch

    path = directory / _TENSORS
    torch.save(dict(weights), path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(path, "no such file", "check the path of the bundle") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        problem = f"cannot be read ({error})"
        raise BundleError(path, problem, "the file is damaged: restore the bundle") from None
    if not isinstance(content, dict):
        raise BundleError(path, "is not a JSON object", "the file is damaged: restore the bundle")
    return content
