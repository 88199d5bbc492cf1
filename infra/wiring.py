"""Where a process keeps its events while Kafka is away, as large as the settings say."""

from __future__ import annotations

from pathlib import Path

from ..streams.serve.delivery.spill import Spill
from .settings import Settings


def open_spill(settings: Settings, folder: str | Path | None) -> Spill | None:
    """None for no folder: events wait in memory. Raises SettingsError when it cannot be used."""
    if folder is None:
        return None
    return Spill(Path(folder), max_bytes=settings.spill_mb * 1024 * 1024, when_full=settings.spill_drops)
