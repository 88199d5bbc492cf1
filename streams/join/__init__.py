"""The joiner: predictions meet their labels, exactly once."""
