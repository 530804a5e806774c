"""Who plays: trained bundles, and policies of one's own, which see observations and nothing else.

A policy of one's own is a class (or function) that needs no arguments and makes an object with
``actions(observation, mask)``, as :class:`agents.problem.BatchPolicy` has it. It gets copies: no
array that the engine, or the next policy, works with.

What that keeps from it, and what not: a policy gets no trace, no state and no cost, and cannot
change what is played. In the same process it could still look for them (modules, frames, files),
as any code of Python can; ``isolated`` asks it in a process of its own, which holds none of them
and knows no ``TRACES_DIR``. That process still runs as the same user: it is no sandbox against
code that means harm. The suites themselves are public.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bundle import load_bundle, read_manifest
from agents.leaderboard.isolation import IsolatedPolicy, checked_actions, make_policy
from agents.leaderboard.store import Kind
from agents.problem import BatchPolicy
from orchestrator.own.loading import source_digest
from orchestrator.scheduling.schema import FeatureSchema

__all__ = ["Contender", "bundled", "own"]


@dataclass(frozen=True)
class Contender:
    """Somebody who wants to play.

    Parameters
    ----------
    name : str
        On the board.
    kind : Kind
    source : str
        How it was named: the folder of a bundle, or the reference of a class.
    digest : str
        Of its weights, or of the file that its class is in.
    policy : callable
        What plays where this is seen, made anew each time; it raises ``SchemaMismatchError``
        where it cannot play.
    close : callable, optional
        Lets go of what it holds.
    isolated : bool, optional
        Whether it is asked in a process of its own.
    """

    name: str
    kind: Kind
    source: str
    digest: str
    policy: Callable[[FeatureSchema], BatchPolicy]
    close: Callable[[], None] = field(default=lambda: None)
    isolated: bool = False


def bundled(folder: str, name: str | None = None) -> Contender:
    """The policy of a bundle, under its folder's name unless another is given.

    Raises
    ------
    BundleError
        When it is incomplete or damaged.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    called = path.parent.name if path.name == "bundle" else path.name
    return Contender(
        name or called,
        Kind.BUNDLE,
        path.as_posix(),
        manifest.weights_sha256[:16],
        lambda schema: load_bundle(path, schema),
    )


def own(reference: str, name: str | None = None, *, isolated: bool = False) -> Contender:
    """A policy of one's own: ``module:Class`` or ``path/of/file.py:Class``.

    Parameters
    ----------
    reference : str
    name : str or None, optional
        On the board; None: what the class is called.
    isolated : bool, optional
        Ask it in a process of its own.

    Raises
    ------
    ConfigurationError
        When there is none, or when it is no policy.
    """
    called = name or reference.rpartition(":")[2]
    digest = source_digest(reference, "policy")
    if isolated:
        apart = IsolatedPolicy(called, reference)
        return Contender(
            called,
            Kind.OWN,
            reference,
            digest,
            lambda _: apart.anew(),
            apart.close,
            isolated=True,
        )
    return Contender(
        called, Kind.OWN, reference, digest, lambda _: _Own(called, make_policy(reference))
    )


class _Own:
    """Gives a policy copies of what it may see, and checks the form of what it answers."""

    def __init__(self, name: str, policy: Any) -> None:
        self.name, self._policy = name, policy

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Choose an action for each row."""
        seen = {part: np.array(values) for part, values in observation.items()}
        return checked_actions(self.name, self._policy.actions(seen, mask.copy()), len(mask))
