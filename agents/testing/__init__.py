"""Checks of one's own policies on observations, networks and feature extractors.

Each plays a small environment and raises :class:`orchestrator.errors.ContractError`, which names
the promise that is broken, or returns.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
