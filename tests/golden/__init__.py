"""Bytes of every event as versions of driftloop wrote them, and what they looked like to readers."""
