"""What etcd replicates: the log, and leases. Needs the packages of the extra ``etcd``.

Whoever does not use it does not load them: ``orchestrator`` itself imports nothing of this.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
