"""Readers of public traces, one format a module."""
