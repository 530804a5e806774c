"""Trained policies as the policies of live clusters."""

from agents.deploy.policy import BundlePolicy

__all__ = ["BundlePolicy"]
