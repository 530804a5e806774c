"""Whose turn it is: the line of those who wait, whom they preempt, and whom they must not delay."""
