"""Policies of one's own by reference, and the form of their answers; knows NumPy and no cluster."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError

__all__ = ["checked_actions", "make_policy", "source_file"]


_REMEDY = "give module:Class or path/of/file.py:Class, found from this folder or PYTHONPATH"


def source_file(reference: str) -> Path:
    """The file that a policy's class is in; its code is not run.

    Parameters
    ----------
    reference : str
        ``module:Class`` or ``path/of/file.py:Class``.

    Raises
    ------
    ConfigurationError
        When there is none.
    """
    module, _ = _parts(reference)
    if module.endswith(".py"):
        file: str | None = module if Path(module).is_file() else None
    else:
        with _working_folder():
            try:
                spec = importlib.util.find_spec(module)
            except (ImportError, ValueError):
                spec = None
        file = None if spec is None else spec.origin
    if file is None or not Path(file).is_file():
        raise ConfigurationError(f"policy '{reference}': there is no such module; {_REMEDY}")
    return Path(file)


def make_policy(reference: str) -> Any:
    """The policy that the class, or function, of a reference makes.

    Raises
    ------
    ConfigurationError
        When there is none, when it needs arguments, or when what it makes is no policy.
    """
    module, attribute = _parts(reference)
    try:
        imported = _from_file(Path(module)) if module.endswith(".py") else _from_name(module)
        make = getattr(imported, attribute)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"policy '{reference}': cannot be imported ({error}); {_REMEDY}"
        ) from None
    try:
        policy = make()
    except TypeError as error:
        raise ConfigurationError(
            f"policy '{reference}': cannot be made ({error}); give a class, or a function, that "
            "needs no arguments"
        ) from None
    if not callable(getattr(policy, "actions", None)):
        raise ConfigurationError(
            f"policy '{reference}': has no method 'actions(observation, mask)'; see "
            "agents.BatchPolicy"
        )
    return policy


def _parts(reference: str) -> tuple[str, str]:
    """Module, or file, and attribute."""
    module, _, attribute = reference.rpartition(":")
    if not (module and attribute):
        raise ConfigurationError(f"policy '{reference}': is no reference; {_REMEDY}")
    return module, attribute


@contextmanager
def _working_folder() -> Iterator[None]:
    """Find the working folder's modules, too, behind all others."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _from_name(module: str) -> ModuleType:
    """A module by its name."""
    with _working_folder():
        return importlib.import_module(module)


def _from_file(path: Path) -> ModuleType:
    """A module from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checked_actions(name: str, chosen: Any, rows: int) -> NDArray[np.int64]:
    """A policy's answer as numbers of actions.

    Raises
    ------
    ConfigurationError
        When it is not one whole number for each row.
    """
    values = np.asarray(chosen)
    if values.shape != (rows,) or not np.issubdtype(values.dtype, np.integer):
        raise ConfigurationError(
            f"policy '{name}': answered {values.dtype} of shape {values.shape}; give one whole "
            f"number for each of the {rows} rows"
        )
    return values.astype(np.int64)
