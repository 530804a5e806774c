"""Learning: problems, trainers, evaluation, and the policy bundles that the orchestrator runs.

The public names stand in ``__init__.pyi`` and are loaded when they are first used, so that
importing one part, the evaluation for example, does not import torch. Everything else is private
and may move.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
