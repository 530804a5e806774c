"""What keeps an engine alive: its journal, and when policies are asked."""
