"""Malformed input for every place where bytes enter."""
