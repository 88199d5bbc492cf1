"""Text that is shown to a person, at a length that a line can hold."""

from __future__ import annotations


def shortened(text: str, most: int) -> str:
    """Return at most ``most`` characters of it, the last three of which are dots if something is left out."""
    return text if len(text) <= most else text[: most - 3] + "..."
