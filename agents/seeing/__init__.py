"""Seeing what happens: episodes as pages, why an action was taken, traces as pictures."""
