"""Settings become connected objects here, and nowhere else: clients, and models that are followed."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ..models.registry.artifacts import ArtifactStore
from ..models.registry.signing import load_verifier
from ..streams.kafka.connection import Connection
from ..streams.serve.client import EventClient
from ..streams.serve.delivery.spill import Spill
from ..streams.serve.hot.follower import FollowParts
from ..streams.serve.hot.model import LiveModel
from ..streams.serve.hot.swap import ArtifactSource
from ..streams.serve.privacy import Hasher
from .hash_key import find_hasher
from .settings import Settings

log = logging.getLogger(__name__)

_LAST_EVENTS_S = 1.5


class ClientParts(TypedDict):
    """What an EventClient is made from."""

    connection: Connection
    hasher: Hasher | None
    spill: Spill | None


def client_parts(settings: Settings, hasher: Hasher | None, spill_dir: str | Path | None) -> ClientParts:
    """Without ``spill_dir`` events wait in memory only. Raises SettingsError when it cannot be used."""
    connection = settings.connection()
    spill = None
    if spill_dir is not None:
        max_bytes = settings.spill_mb * 1024 * 1024
        spill = Spill(Path(spill_dir), max_bytes=max_bytes, when_full=settings.spill_drops)
    return {"connection": connection, "hasher": hasher, "spill": spill}


def follow_parts(
    settings: Settings, role: str, hasher: Hasher | None, *, store: ArtifactSource | None = None
) -> FollowParts:
    """For this instance of ``role``; ``store``: the settings' own by default. Raises SettingsError."""
    instance, keys_dir = settings.instance(role), settings.keys_path()
    return FollowParts(
        settings.connection(),
        ArtifactStore(settings.store_url()) if store is None else store,
        lambda: load_verifier(keys_dir),
        settings.state_dir / role / instance,
        instance,
        hasher,
    )


@dataclass(frozen=True, slots=True)
class OpenModels:
    """Models that are followed, and the client that they emit through."""

    models: tuple[LiveModel, ...]
    client: EventClient


@contextmanager
def open_models(settings: Settings, names: Iterable[str], role: str) -> Generator[OpenModels]:
    """Follow the models as this instance of ``role``, and close everything at the end.

    Raises SettingsError, StateError.
    """
    hasher = find_hasher(settings, create=True)
    parts = follow_parts(settings, role, hasher)
    client = EventClient(**client_parts(settings, hasher, parts.state_dir / "spill"))
    models: list[LiveModel] = []
    try:
        for name in names:
            models.append(LiveModel(name, parts, client))
        yield OpenModels(tuple(models), client)
    finally:
        if models:
            with ThreadPoolExecutor(len(models)) as closing:  # together: each may wait for its follower
                list(closing.map(LiveModel.close, models))
        client.close(_LAST_EVENTS_S)
        if client.stats.dropped:
            log.warning("%d events were dropped since the start", client.stats.dropped)
