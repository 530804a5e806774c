"""Learning: tasks, trainers, evaluation, and the policy bundles that the orchestrator runs."""
