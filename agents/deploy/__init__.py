"""Trained policies as the policies of live clusters."""

from agents.deploy.policy import BundlePolicy, semantics_of

__all__ = ["BundlePolicy", "semantics_of"]
