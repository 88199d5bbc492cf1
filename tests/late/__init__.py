"""Requests that the network delivers late, in every role that writes transactions: ``make late``."""
