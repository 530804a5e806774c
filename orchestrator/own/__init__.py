"""One's own parts: policies, rules, rewards and more, named where their classes are."""
