"""The array core: state, transitions, decisions and features as compiled functions.

Only numpy and numba are imported below this package. ``transition`` is the only writer of
cluster state; everything else reads it, or writes into buffers that its caller owns.
"""
