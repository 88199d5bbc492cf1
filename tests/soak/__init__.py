"""The fault harness: real processes on a three-node cluster, killed by a seeded plan, and checked at the end.

See docs/soak.md; ``python -m tests.soak --help``.
"""
