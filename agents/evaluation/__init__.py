"""Evaluation: the same windows for every policy, paired statistics, tables and reports."""
