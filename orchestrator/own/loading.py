"""One's own parts by name: ``package.module:Name``, or ``path/to/file.py:Name``.

Every place that takes a policy, a rule, a reward term, a feature, a workload, a scenario or a
network by name takes one of these as well, so that nothing of this package has to be edited. Names,
not objects, go into configs, manifests and other processes, and mean the same there.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestrator.errors import ConfigurationError

__all__ = [
    "check_methods",
    "is_part_name",
    "load_part",
    "make_part",
    "part_name",
    "source_digest",
    "source_file",
]


_FILE = ".py"


_NEAR = 3  # suggestions


def is_part_name(name: object) -> bool:
    """Whether something is written like the name of one's own part, whether there is one or not."""
    return isinstance(name, str) and ":" in name


def load_part(name: str, kind: str) -> Any:
    """What stands under a name in a module.

    Parameters
    ----------
    name : str
        ``package.module:Name`` of a module that Python can import, or that the working folder has,
        or ``path/to/file.py:Name`` of a file. ``Name`` may lead through attributes, as
        ``Outer.Inner``. A module is imported once, and runs as any import does: name only what you
        would import.
    kind : str
        What it shall be, in a word, for messages: ``policy``.

    Returns
    -------
    object

    Raises
    ------
    ConfigurationError
        If the name has another form, there is no such module, it cannot be imported, or it has no
        such attribute.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise ConfigurationError(
            f"{kind} {name!r}: is no name of one's own part; give package.module:Name, or "
            "path/to/file.py:Name"
        )
    module = (
        _from_file(name, where, kind) if where.endswith(_FILE) else _imported(name, where, kind)
    )
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise ConfigurationError(
            f"{kind} '{name}': module '{where}' has no '{attribute}'; {_alike(module, attribute)}"
        ) from None


def make_part(name: str, kind: str, wanted: str, methods: Sequence[str] = ("__call__",)) -> Any:
    """One's own part, ready to use: an object that has all methods of its kind.

    Parameters
    ----------
    name : str
        As for :func:`load_part`. A class is called without arguments to make one.
    kind : str
        As for :func:`load_part`.
    wanted : str
        The protocol that the kind keeps, for messages: where it is described.
    methods : sequence of str, optional
        What it must have. Without any but ``__call__``, a function will do.

    Raises
    ------
    ConfigurationError
        As :func:`load_part` does; if the class needs arguments, or a method is missing.
    """
    found = load_part(name, kind)
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise ConfigurationError(
                f"{kind} '{name}': cannot be made ({error}); give a class that needs no arguments, "
                "a subclass that fixes them for one"
            ) from None
    check_methods(found, f"{kind} '{name}'", wanted, methods)
    return found


def source_file(name: str, kind: str) -> Path:
    """The file in which one's own part stands; its code is not run.

    Parameters
    ----------
    name, kind : str
        As for :func:`load_part`.

    Raises
    ------
    ConfigurationError
        If there is no such module, or it has no file of its own.
    """
    where, _, attribute = name.rpartition(":")
    file: str | None = where
    if not where.endswith(_FILE):
        try:
            with _working_folder():
                spec = importlib.util.find_spec(where) if where and attribute else None
        except (ImportError, ValueError):
            spec = None
        file = None if spec is None else spec.origin
    if file is None or not Path(file).expanduser().is_file():
        raise ConfigurationError(
            f"{kind} '{name}': there is no such module; give module:Name with its folder in "
            "PYTHONPATH, or path/of/file.py:Name"
        )
    return Path(file).expanduser()


def source_digest(name: str, kind: str) -> str:
    """Sixteen hexadecimal digits of the file in which one's own part stands.

    A name says where code is, not what it does: whatever is kept for one's own part, and must not
    outlive a change of it, is kept for both. What that file imports is not looked at.

    Parameters
    ----------
    name, kind : str
        As for :func:`load_part`.

    Raises
    ------
    ConfigurationError
        As :func:`source_file` does.
    """
    return hashlib.sha256(source_file(name, kind).read_bytes()).hexdigest()[:16]


def check_methods(part: object, subject: str, wanted: str, methods: Sequence[str]) -> None:
    """Refuse an object that lacks methods.

    Raises
    ------
    ConfigurationError
        Naming the first one that is missing, and the protocol.
    """
    for method in methods:
        if not callable(getattr(part, method, None)):
            said = "cannot be called" if method == "__call__" else f"has no method '{method}'"
            raise ConfigurationError(f"{subject}: {said}; see {wanted}")


def part_name(part: object, kind: str) -> str:
    """The name of a class or function, by which :func:`load_part` finds it again; texts stay.

    Raises
    ------
    ConfigurationError
        If it would not be found: it is an instance, or stands inside a function.
    """
    if isinstance(part, str):
        return part
    module = getattr(part, "__module__", None)
    attribute = getattr(part, "__qualname__", None) or getattr(part, "__name__", None)
    name = f"{module}:{attribute}"
    home = sys.modules.get(str(module))
    here = home
    for step in str(attribute).split("."):
        here = getattr(here, step, None)
    if home is None or here is not part:
        raise ConfigurationError(
            f"{kind} {part!r}: has no name by which others find it; give a class or a function "
            "that stands at the top of a module, or its name"
        )
    return name


def _imported(name: str, where: str, kind: str) -> ModuleType:
    """A module by its name, from the working folder if there is none elsewhere."""
    try:
        with _working_folder():
            return importlib.import_module(where)
    except ModuleNotFoundError as error:
        missing = error.name or where
        if where == missing or where.startswith(f"{missing}."):
            raise ConfigurationError(
                f"{kind} '{name}': there is no module '{missing}'; have its folder in PYTHONPATH, "
                "or name its file: path/to/file.py:Name"
            ) from None
        raise _broken(name, where, kind, error) from error
    except Exception as error:
        raise _broken(name, where, kind, error) from error


@contextmanager
def _working_folder() -> Iterator[None]:
    """Find the working folder's modules, too, behind all others: scripts do not by themselves."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _from_file(name: str, where: str, kind: str) -> ModuleType:
    """A file as a module: the same one, whenever the file is named."""
    path = Path(where).expanduser().resolve()
    known = f"own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigurationError(f"{kind} '{name}': there is no file {path}; check the path")
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # dataclasses look there while the file runs
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[known]
        raise _broken(name, where, kind, error) from error
    return module


def _broken(name: str, where: str, kind: str, error: Exception) -> ConfigurationError:
    said = f"{type(error).__name__}: {error}"
    return ConfigurationError(
        f"{kind} '{name}': '{where}' cannot be imported ({said}); import it by itself to see where"
    )


def _alike(module: ModuleType, attribute: str) -> str:
    """What was perhaps meant."""
    public = [known for known in vars(module) if not known.startswith("_")]
    near = difflib.get_close_matches(attribute, public, _NEAR)
    return f"did you mean {' or '.join(near)}?" if near else "check the name"
