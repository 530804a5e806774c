"""Checks of one's own parts of environments: reward terms, features, workloads, scenarios.

Each plays small environments and raises :class:`orchestrator.errors.ContractError`, which names the
promise that is broken, or returns. They take seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
