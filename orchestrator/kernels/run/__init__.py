"""Who drives rows: sessions, evaluations of linear policies, packing, the live engine."""
