"""Deterministic ids: the same cause has the same id, on every machine and every replay."""

from __future__ import annotations

import hashlib

SEPARATOR = b"\x1f"  # ASCII unit separator: cannot occur in ids, so ("a", "bc") and ("ab", "c") differ


def event_id(kind: str, *causes: str | int) -> str:
    """``kind-`` followed by 16 hex digits of a BLAKE2b digest over the causes, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for cause in causes:
        digest.update(str(cause).encode())
        digest.update(SEPARATOR)
    return f"{kind}-{digest.hexdigest()}"
