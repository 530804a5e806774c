"""Write and read policy bundles."""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.bundle.card import EvaluationCard
from agents.bundle.manifest import FORMAT, Manifest
from agents.task import BatchPolicy
from envs.config import EnvConfig
from envs.scenario import Scenario
from orchestrator.errors import QuartermasterError
from orchestrator.scheduler.schema import FeatureSchema

__all__ = [
    "KINDS",
    "BundleError",
    "load_bundle",
    "load_weights",
    "read_card",
    "read_manifest",
    "save_bundle",
    "write_card",
]

KINDS: dict[str, str] = {
    "linear_ranker": "agents.cma.policy:load_ranker",
    "linear_scorer": "agents.cma.scorer:load_scorer",
    "ppo": "agents.ppo.inference:load_policy",
}
"""Kinds of policies, and who makes one of its parts: ``module:function`` (manifest, weights)."""

_MANIFEST, _CARD, _CARD_TEXT = "manifest.json", "card.json", "card.md"
_ARRAYS, _TENSORS = "weights.npz", "weights.pt"
_LATER = ("scenario",)  # fields that bundles of earlier releases do not have

Weights = Mapping[str, Any]
Loader = Callable[[Manifest, Weights], BatchPolicy]


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


def save_bundle(
    directory: str | Path,
    *,
    kind: str,
    weights: Weights,
    config: EnvConfig,
    seed: int,
    name: str | None = None,
    schema: FeatureSchema | None = None,
    training: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    card: EvaluationCard | None = None,
    scenario: Scenario | None = None,
) -> Path:
    """Write a bundle; an earlier one of the same name is replaced, card and all.

    Parameters
    ----------
    directory : str or Path
        Becomes the bundle. It must not exist, be empty, or be a bundle.
    kind : str
        One of :data:`KINDS`.
    weights : mapping of str to array
        NumPy arrays; or torch tensors, such as a state dictionary.
    config : EnvConfig
        The environment that the policy was trained in.
    seed : int
        Seed of the training run.
    name : str or None, optional
        The policy's name in tables; None: its kind.
    schema : FeatureSchema or None, optional
        Features and actions that the policy was trained on; None: those of ``config``.
    training : mapping or None, optional
        Configuration of the trainer.
    model : mapping or None, optional
        What the loader must know beside the weights, such as layer sizes.
    card : EvaluationCard or None, optional
        None: to be added by :func:`write_card`.
    scenario : Scenario or None, optional
        What the windows happened in that the policy was trained on; None: nothing beside jobs
        and nodes.

    Returns
    -------
    Path
        The directory.
    """
    target = Path(directory)
    _check_kind(target, kind)
    occupied = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if occupied and not (target / _MANIFEST).is_file():
        raise BundleError(target, "exists and is no bundle", "choose another directory")
    manifest = Manifest.describe(
        kind,
        name or kind,
        config,
        seed,
        schema=schema,
        training=training,
        model=model,
        scenario=scenario,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the final rename stays within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        file = _write_weights(new, weights)
        manifest = replace(manifest, weights=file.name, weights_sha256=_sha256(file))
        _write_json(new / _MANIFEST, asdict(manifest))
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


def write_card(directory: str | Path, card: EvaluationCard) -> None:
    """Write, or replace, the evaluation card of a bundle."""
    _write_json(Path(directory) / _CARD, card.as_dict())
    _write_text(Path(directory) / _CARD_TEXT, card.to_markdown())


def read_card(directory: str | Path) -> EvaluationCard:
    """Read the evaluation card of a bundle."""
    path = Path(directory) / _CARD
    try:
        return EvaluationCard.from_dict(_read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(path, f"is no evaluation card ({error})", "evaluate again") from None


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


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


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
