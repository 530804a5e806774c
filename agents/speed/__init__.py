"""Speed: what this project does in a second, beside what this machine can do at best."""

from agents.speed.measures import MEASURES, Workbench
from agents.speed.suite import Ratio, SpeedSuite, Target, run_speed_suite
from agents.speed.table import print_speed, write_speed

__all__ = [
    "MEASURES",
    "Ratio",
    "SpeedSuite",
    "Target",
    "Workbench",
    "print_speed",
    "run_speed_suite",
    "write_speed",
]
