"""What tests of one's own policies and rules are written with."""

from .policies import check_policy as check_policy
from .policies import check_rule as check_rule
