"""Publishes models for tests of servers: signed versions whose answers tell which version gave them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from driftloop.infra.control.specs import apply_deployment
from driftloop.models.formats.fitted import Fitted
from driftloop.models.formats.loaders import load
from driftloop.models.registry.artifacts import ArtifactStore
from driftloop.models.registry.self_test import build_self_test
from driftloop.models.registry.signing import load_or_create_keypair, load_verifier
from driftloop.schemas.events import Label, Prediction
from driftloop.schemas.serving import FeatureSpec, Manifest, ModelAck, ModelUpdate, Reference
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.schemas.topics import LABELS, MODEL_ACKS, MODEL_UPDATES, PREDICTIONS, Topic
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.record import Record
from driftloop.streams.serve.client import EventClient
from driftloop.streams.serve.hot.follower import FollowParts
from driftloop.streams.serve.hot.model import LiveModel, Swapped
from onnx import TensorProto, helper

from tests.support.kafka.topics import read_topic, write
from tests.support.models.worlds import update_to
from tests.support.waiting import wait_until

STEP = 1000.0


def telling_model(version: int) -> Fitted:
    """A regression of one number: x + 1000·version, so that every answer says who gave it."""
    nodes = [helper.make_node("Add", ["X", "offset"], ["y"])]
    offset = helper.make_tensor("offset", TensorProto.FLOAT, [1], [STEP * version])
    graph = helper.make_graph(
        nodes,
        f"version{version}",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        initializer=[offset],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    features = (FeatureSpec(name="x", type="number"),)
    return Fitted("onnx", made.SerializeToString(), features, None, "regression")


def version_told_by(prediction: object, x: float = 0.0) -> int:
    """Which version gave this answer to ``x``."""
    assert isinstance(prediction, float)
    return round((prediction - x) / STEP)


class Bench:
    """Keys, a store and the topics of one deployment."""

    def __init__(self, connection: Connection, folder: Path, model: str = "m") -> None:
        self.connection = connection
        self.model = model
        self.keys_dir = folder / "keys"
        self.store_dir = folder / "artifacts"
        self.signer = load_or_create_keypair(self.keys_dir)
        self.store = ArtifactStore(str(self.store_dir))
        self.state_dir = folder / "serve"
        self.manifests: dict[int, Manifest] = {}

    def apply_spec(self, **spec: Any) -> None:
        """Publishes the model's spec."""
        wanted = ModelSpec.model_validate({"task": "regression", **spec})
        apply_deployment(self.connection, Deployment(models={self.model: wanted}))

    def make(self, version: int, fitted: Fitted | None = None, **changes: Any) -> str:
        """Stores a version; gives its manifest's digest."""
        fitted = telling_model(version) if fitted is None else fitted
        sha256 = self.store.put_artifact(self.model, fitted.data)
        rows = [{"x": float(x)} for x in range(4)]
        manifest = Manifest(
            model=self.model, version=version, created_ms=1, artifact_sha256=sha256,
            artifact_bytes=len(fitted.data), format=fitted.format, task=fitted.task, classes=fitted.classes,
            features=fitted.features, self_test=build_self_test(load(fitted, fitted.data), rows),
            reference=Reference(rows=1),
        )  # fmt: skip
        self.manifests[version] = self.signer.sign(manifest.model_copy(update=changes))
        return self.store.put_manifest(self.manifests[version])

    def artifact(self, version: int) -> Path:
        """The file with the version's bytes."""
        return self.store_dir / self.model / "artifacts" / self.manifests[version].artifact_sha256

    def update(self, generation: int, version: int | None, **plan: Any) -> ModelUpdate:
        """A signed update to a version, which is made if it was not."""
        champion = None if version is None else (version, self.make(version))
        return update_to(self.signer, generation, champion, model=self.model, **plan)

    def publish(self, update: ModelUpdate) -> None:
        """Puts the update on the topic."""
        write(self.connection, (MODEL_UPDATES, self.model, update.encode()))

    def serve(
        self, client: EventClient, on_swap: Callable[[Swapped], None] | None = None, **more: Any
    ) -> LiveModel:
        """A server of the model."""
        given: dict[str, Any] = {
            "connection": self.connection,
            "store": self.store,
            "verifier": partial(load_verifier, self.keys_dir),
            "state_dir": self.state_dir,
            "server_id": "serve-test",
        }
        return LiveModel(self.model, FollowParts(**(given | more)), client, on_swap)

    def acks(self) -> list[ModelAck]:
        """Every acknowledgement so far, in order."""
        return [ModelAck.decode(record.value or b"") for record in self.read(MODEL_ACKS)]

    def predictions(self) -> list[Prediction]:
        return [Prediction.decode(record.value or b"") for record in self.read(PREDICTIONS)]

    def labels(self) -> list[Label]:
        return [Label.decode(record.value or b"") for record in self.read(LABELS)]

    def read(self, topic: Topic) -> list[Record]:
        return list(read_topic(self.connection, topic))


def numpy_values() -> dict[str, object]:
    """Features as numeric code has them."""
    return {
        "f4": np.float32(0.5), "f8": np.float64(2.5), "i": np.int64(-3), "u": np.uint8(7),
        "b": np.bool_(True), "s": np.str_("JFK"), "none": None, "plain": 1,
    }  # fmt: skip


def ack_with(bench: Bench, wanted: Callable[[ModelAck], bool]) -> ModelAck:
    """The first acknowledgement that is as wanted; waits for it."""
    return wait_until(lambda: next(filter(wanted, bench.acks()), None), "such an acknowledgement")
