"""The only writer of cluster state.

``log`` records what happens, ``timeline`` moves the clock and holds the event queue, ``resources``
reserves and releases, ``queue`` holds waiting and running jobs, ``jobs`` and ``nodes`` change
states, ``capacity`` orders and gives up nodes, ``apply`` turns an event into these changes,
``episode`` loads and copies rows.
"""
