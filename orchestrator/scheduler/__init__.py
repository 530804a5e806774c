"""Scheduling: rules as data; their evaluation is in ``orchestrator.kernels``."""
