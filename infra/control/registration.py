"""Registering a model that already exists: its artifact and an unsigned draft manifest go into the store.

The registrar checks the draft, gives it a version, signs it and makes it live; nobody else can.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from ...models.registry.artifacts import ArtifactStore
from ...models.registry.import_model import build_manifest_parts
from ...models.registry.reference_csv import read_reference_csv
from ...schemas.errors import ArtifactError, Error
from ...schemas.serving import Manifest
from ...streams.kafka.connection import Connection
from .specs import model_specs


def store_registration(
    connection: Connection, store_url: str, model: str, file: Path, reference: Path, *, label_column: str
) -> str:
    """Store a draft and return its digest. Raises Error without a spec, ArtifactError for a wrong file."""
    spec = model_specs(connection).get(model)
    if spec is None:
        raise Error(
            f"model {model!r} has no spec: add [models.{model}] to driftloop.toml, then `driftloop apply`"
        )
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {file}: {error.strerror}") from error
    table = read_reference_csv(
        reference,
        task=spec.task,
        label=label_column,
        segments=spec.segments,
        classes=spec.classes,
        types=spec.declared_types(),
    )
    parts = build_manifest_parts(data, table, task=spec.task, classes=spec.classes)
    store = ArtifactStore(store_url)
    draft = Manifest(
        model=model,
        version=0,  # the registrar gives it one
        created_ms=time.time_ns() // 1_000_000,
        artifact_sha256=store.put_artifact(model, data),
        artifact_bytes=len(data),
        format=parts.fitted.format,
        task=spec.task,
        classes=parts.fitted.classes,
        features=parts.fitted.features,
        self_test=parts.self_test,
        reference=parts.reference,
        learner=f"registered: {file.name} ({hashlib.sha256(data).hexdigest()[:12]})",
        spec_digest=spec.digest(),
    )
    return store.put_manifest(draft)
