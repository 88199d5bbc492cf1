"""The gates of promotion: significance, fairness, latency and business cost."""
