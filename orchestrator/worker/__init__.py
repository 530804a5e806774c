"""What a job's own processes import: checkpoints, elastic training, batches, the line to the agent.

It stands on the lowest floor and knows nothing of the cluster: importing it loads neither kernels
nor numba, and torch only where a name is used that needs it. A script that uses it also runs by
itself, or under torchrun: what the agent would say is then not said.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
