"""Malformed input: what somebody's program, or somebody, may send to every place where bytes enter."""
