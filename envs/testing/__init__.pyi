"""What tests of one's own parts of environments are written with."""

from .rows import check_feature as check_feature
from .rows import check_reward_term as check_reward_term
from .workloads import check_generator as check_generator
from .workloads import check_reader as check_reader
from .workloads import check_scenario as check_scenario
