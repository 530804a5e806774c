"""Examples are scripts, not modules: they are loaded by their paths."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def load_example(name: str) -> ModuleType:
    """The ``run.py`` of an example, as a module of a name of its own."""
    return load_script(f"{name}/run.py")


def load_script(file: str) -> ModuleType:
    """A script below ``examples``, as a module of a name of its own."""
    path = ROOT / "examples" / file
    module_name = file.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
