"""The public API's classes, made from arguments, and from DRIFTLOOP_… variables where these are absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..schemas.errors import SettingsError
from ..schemas.spec.model import Privacy
from ..streams.serve.client import Dropped, EventClient
from ..streams.serve.hot.model import LiveModel, Swapped
from ..streams.serve.hot.swap import ArtifactSource
from .hash_key import find_hasher
from .settings import Settings
from .wiring import client_parts, follow_parts


class Client(EventClient):
    """Emits predictions and labels to Kafka in microseconds, never waiting for it.

    Thread safe; one per process is enough; create it after a fork. Close it, or leave a ``with`` block, to
    send what is still under way; the end of the process does it too.
    """

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        *,
        prefix: str | None = None,
        kafka: Mapping[str, str] | None = None,
        privacy: Mapping[str, Privacy] | None = None,
        hash_key: str | None = None,
        on_drop: Callable[[Dropped], None] | None = None,
        spill_dir: str | Path | None = None,
    ) -> None:
        """``bootstrap_servers``: DRIFTLOOP_BOOTSTRAP_SERVERS by default. ``kafka``: settings of librdkafka.

        ``privacy``: rules for all models, e.g. {"tail": "hash"}; without it each model's published spec is
        followed. ``on_drop`` is called with events that will not arrive. ``spill_dir``: a folder of its own
        where events wait on disk while Kafka is away, DRIFTLOOP_SPILL_MB at most; without it they wait in
        memory. Raises SettingsError.
        """
        settings = read_settings(
            bootstrap_servers=bootstrap_servers, topic_prefix=prefix, kafka=kafka, hash_key=hash_key
        )
        parts = client_parts(settings, find_hasher(settings), spill_dir)
        super().__init__(**parts, privacy=privacy, on_drop=on_drop)


class HotModel(LiveModel):
    """The live version of a model, in any server: predicts, emits, and swaps as updates come.

    Thread safe; create it after a fork.
    """

    def __init__(
        self,
        model: str,
        bootstrap_servers: str | None = None,
        *,
        prefix: str | None = None,
        kafka: Mapping[str, str] | None = None,
        client: EventClient | None = None,
        store: str | ArtifactSource | None = None,
        trusted_keys: str | Path | None = None,
        state_dir: str | Path | None = None,
        server_id: str | None = None,
        hash_key: str | None = None,
        on_swap: Callable[[Swapped], None] | None = None,
        spill_dir: str | Path | None = None,
    ) -> None:
        """Start to follow at once; ``wait_ready`` waits for the first version.

        ``store``: where artifacts are, a folder or an fsspec URL (DRIFTLOOP_ARTIFACT_STORE).
        ``trusted_keys``: the folder whose ``trusted/`` holds the public keys (DRIFTLOOP_KEYS_DIR).
        ``state_dir``: where this server persists what it serves (DRIFTLOOP_STATE_DIR). ``server_id``: this
        server's name in acknowledgements (DRIFTLOOP_INSTANCE_ID, or the host's name). Without ``client`` it
        creates its own, whose events wait in ``spill_dir`` while Kafka is away (as Client's do).
        Raises SettingsError, InvalidEvent for a name that no model can have, StateError.
        """
        settings = read_settings(
            bootstrap_servers=bootstrap_servers,
            topic_prefix=prefix,
            kafka=kafka,
            hash_key=hash_key,
            artifact_store=store if isinstance(store, str) else None,
            keys_dir=trusted_keys,
            state_dir=state_dir,
            instance_id=server_id,
        )
        hasher = find_hasher(settings)
        self._own_client = None
        if client is None:
            client = self._own_client = EventClient(**client_parts(settings, hasher, spill_dir))
        elif spill_dir is not None:
            raise SettingsError("spill_dir is for a HotModel with a client of its own: give it to the client")
        parts = follow_parts(settings, "serve", hasher, store=None if isinstance(store, str) else store)
        super().__init__(model, parts, client, on_swap)

    def close(self) -> None:
        """Stop following, and close the client if the model created it."""
        super().close()
        if self._own_client is not None:
            self._own_client.close()


def read_settings(**given: Any) -> Settings:
    """The environment's settings, overridden by those given (None: not given). Raises SettingsError."""
    return Settings(**{name: value for name, value in given.items() if value is not None})
