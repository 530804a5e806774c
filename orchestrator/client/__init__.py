"""A client of the server, synchronous and asynchronous; it brings neither cluster nor compiler.

It imports errors, httpx and the standard library; ``import quartermaster`` is the short way to it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
