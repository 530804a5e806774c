"""One cluster whose shards are led by several processes."""
