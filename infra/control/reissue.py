"""Reissuing the live version under a new key, before the key that signed it is revoked.

The version's manifest becomes a draft again and is registered: the trainer tests its artifact, gives it the
next number and signs with its present key. So it passes the same checks as any model that a person registers.
"""

from __future__ import annotations

import time

from ...models.registry.artifacts import ArtifactStore
from ...models.registry.signing import Verifier
from ...schemas.errors import Error
from ...streams.kafka.connection import Connection
from ..status.overview import read_overview


def store_reissue(connection: Connection, store_url: str, verifier: Verifier, model: str) -> tuple[int, str]:
    """Return the live version, and the digest of its manifest as a draft.

    Raises Error if none is live, ArtifactError if its manifest is missing or signed by an unknown key.
    """
    view = read_overview(connection).models.get(model)
    champion = None if view is None or view.update is None else view.update.plan.champion
    if champion is None:
        raise Error(f"no version of {model!r} is live: there is nothing to reissue")
    store = ArtifactStore(store_url)
    manifest = store.get_manifest(model, champion.manifest_sha256)
    verifier.verify_history(manifest)
    draft = manifest.model_copy(
        update={
            "version": 0,  # the registrar gives it one
            "refresh": 0,
            "parent": None,
            "run_id": None,
            "created_ms": time.time_ns() // 1_000_000,
            "key_id": "",
            "signature": "",
        }
    )
    return champion.version, store.put_manifest(draft)
