"""What etcd replicates: the log, and leases. Needs the packages of the extra ``etcd``."""

from __future__ import annotations

from orchestrator.foundations.etcd.leases import EtcdLeases
from orchestrator.foundations.etcd.log import EtcdLog

__all__ = ["EtcdLeases", "EtcdLog"]
