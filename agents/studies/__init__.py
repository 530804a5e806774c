"""Studies: runs of several settings and seeds side by side."""
