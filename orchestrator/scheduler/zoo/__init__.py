"""Published policies that plan in rounds, written on snapshots like anybody's own policy.

They are for comparison: each says what it takes from its paper and what it leaves out.
"""
