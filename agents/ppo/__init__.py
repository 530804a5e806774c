"""MaskablePPO with a permutation-equivariant scorer of legal actions."""
