"""What tests of one's own policies on observations, and of networks, are written with."""

from .networks import check_extractor as check_extractor
from .networks import check_network as check_network
from .policies import check_batch_policy as check_batch_policy
