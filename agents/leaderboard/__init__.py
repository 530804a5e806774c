"""The leaderboard: fixed suites, costs that are kept window by window, paired verdicts."""
