"""Detectors over vitals, and the policy that makes triggers of drift: the monitor."""
