"""Inference by workers: a batch of items that is done once, and a server that answers requests."""
