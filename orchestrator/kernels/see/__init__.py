"""What a policy is shown, and what its answer means."""
