"""Quartermaster's orchestrator: it runs AI workloads on clusters.

The public names stand in ``__init__.pyi`` and are loaded when they are first used, so that
importing a part, the kernels for example, does not import the whole. Everything else is private
and may move.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
