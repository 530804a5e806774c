"""Speed of what is live: an orchestrator on real clocks, logs that are kept, and real jobs."""
