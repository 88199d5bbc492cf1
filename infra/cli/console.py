"""The two consoles every command prints through."""

from __future__ import annotations

from rich.console import Console

output = Console()
errors = Console(stderr=True)
