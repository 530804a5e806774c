"""The twin: a copy of the cluster, asked when, why and what if; docs/site/tutorials/twin.md."""
