"""Where futures are played, by whom, and what befalls the nodes there."""
