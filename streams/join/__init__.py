"""Predictions meet their labels, exactly once: the joiner."""
