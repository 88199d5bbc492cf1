"""Settings become connected objects here, and nowhere else: clients, and models that are followed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ..models.registry.artifacts import ArtifactStore
from ..models.registry.signing import Verifier, load_verifier
from ..streams.kafka.connection import Connection
from ..streams.serve.client import Client
from ..streams.serve.delivery.spill import Spill
from ..streams.serve.hot.model import HotModel
from ..streams.serve.hot.swap import Store
from ..streams.serve.privacy import Hasher
from .hash_key import find_hasher
from .settings import Settings

log = logging.getLogger(__name__)

_LAST_EVENTS_S = 1.5


class ClientParts(TypedDict):
    """What a Client is made from."""

    connection: Connection
    hasher: Hasher | None
    spill: Spill | None


class FollowParts(TypedDict):
    """What a HotModel is made from, beside its name and its client."""

    connection: Connection
    store: Store
    verifier: Callable[[], Verifier]
    state_dir: Path
    server_id: str
    hasher: Hasher | None


def client_parts(settings: Settings, hasher: Hasher | None, spill_dir: str | Path | None) -> ClientParts:
    """Without ``spill_dir`` events wait in memory only. Raises SettingsError when it cannot be used."""
    connection = settings.connection()
    spill = None
    if spill_dir is not None:
        max_bytes = settings.spill_mb * 1024 * 1024
        spill = Spill(Path(spill_dir), max_bytes=max_bytes, when_full=settings.spill_drops)
    return {"connection": connection, "hasher": hasher, "spill": spill}


def follow_parts(
    settings: Settings, role: str, hasher: Hasher | None, *, store: Store | None = None
) -> FollowParts:
    """For this instance of ``role``; ``store``: the settings' own by default. Raises SettingsError."""
    instance, keys_dir = settings.instance(role), settings.keys_path()
    return {
        "connection": settings.connection(),
        "store": ArtifactStore(settings.store_url()) if store is None else store,
        "verifier": lambda: load_verifier(keys_dir),
        "state_dir": settings.state_dir / role / instance,
        "server_id": instance,
        "hasher": hasher,
    }


@dataclass(frozen=True, slots=True)
class OpenModels:
    """Models that are followed, and the client that they emit through."""

    models: tuple[HotModel, ...]
    client: Client


@contextmanager
def open_models(settings: Settings, names: Iterable[str], role: str) -> Generator[OpenModels]:
    """Follow the models as this instance of ``role``, and close everything at the end.

    Raises SettingsError, StateError.
    """
    hasher = find_hasher(settings, create=True)
    parts = follow_parts(settings, role, hasher)
    client = Client(**client_parts(settings, hasher, parts["state_dir"] / "spill"))
    models: list[HotModel] = []
    try:
        for name in names:
            models.append(HotModel(name, client=client, **parts))
        yield OpenModels(tuple(models), client)
    finally:
        if models:
            with ThreadPoolExecutor(len(models)) as closing:  # together: each may wait for its follower
                list(closing.map(HotModel.close, models))
        client.close(_LAST_EVENTS_S)
        if client.stats.dropped:
            log.warning("%d events were dropped since the start", client.stats.dropped)
