"""The twin: a copy of the cluster that is asked when, why and what if; see docs/site/tutorials/twin.md."""
