"""A version that is believed, signed anew: what to do for the live one before its key is revoked.

The version's manifest becomes a draft again and is registered: the trainer tests its artifact, gives it the
next number and signs with the key it has now. So it passes the same door as any model that a person brings.
"""

from __future__ import annotations

import time

from ...models.registry.artifacts import ArtifactStore
from ...models.registry.signing import Verifier
from ...schemas.errors import Error
from ...streams.kafka.connection import Connection
from ..status.overview import read_overview


def store_reissue(connection: Connection, store_url: str, verifier: Verifier, model: str) -> tuple[int, str]:
    """The live version, and the digest of its manifest as a draft.

    Raises Error when none is live, ArtifactError when its manifest is missing or was signed by nobody known
    here.
    """
    view = read_overview(connection).models.get(model)
    champion = None if view is None or view.update is None else view.update.plan.champion
    if champion is None:
        raise Error(f"no version of {model!r} is live: there is nothing to sign anew")
    store = ArtifactStore(store_url)
    manifest = store.get_manifest(model, champion.manifest_sha256)
    verifier.verify_history(manifest)
    draft = manifest.model_copy(
        update={
            "version": 0,  # the registrar's to give
            "refresh": 0,
            "parent": None,
            "run_id": None,
            "created_ms": time.time_ns() // 1_000_000,
            "key_id": "",
            "signature": "",
        }
    )
    return champion.version, store.put_manifest(draft)
