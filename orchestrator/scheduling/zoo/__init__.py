"""Policies of published systems that plan in rounds, or look ahead."""
