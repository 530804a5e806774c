"""Checks of one's own policies and rules: what every policy here promises, in one call.

The checks of what belongs to environments are in ``envs.testing``, those of what learns, in
``agents.testing``. All raise :class:`orchestrator.errors.ContractError`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
