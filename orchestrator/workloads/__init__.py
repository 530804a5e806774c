"""Workloads: how fast jobs train, what it costs to save them, and their life cycles."""
