"""Policies that plan: what they would do is tried in futures before it is done."""
