"""One's own reward terms and features: computed in Python from views of all rows at once."""
