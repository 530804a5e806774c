"""What lookahead finds, learned by a set network that decides without it."""
