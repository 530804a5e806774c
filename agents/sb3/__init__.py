"""The set scorer for stable-baselines3: after ``import agents.sb3``, ``policy="SetPolicy"``.

PPO, A2C and DQN of stable-baselines3, and MaskablePPO, RecurrentPPO and QR-DQN of sb3-contrib know
that name then.
"""

from agents.sb3.extractor import SetExtractor
from agents.sb3.policies import SetMaskablePolicy, SetPolicy, SetRecurrentPolicy, register
from agents.sb3.values import LegalActions, SetDQNPolicy, SetQRDQNPolicy

__all__ = [
    "LegalActions",
    "SetDQNPolicy",
    "SetExtractor",
    "SetMaskablePolicy",
    "SetPolicy",
    "SetQRDQNPolicy",
    "SetRecurrentPolicy",
]

register()
