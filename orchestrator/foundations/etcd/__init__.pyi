"""A log and leases on etcd; loaded when first used."""

from .leases import EtcdLeases as EtcdLeases
from .log import EtcdLog as EtcdLog
