"""Publishes models for tests of servers: signed versions whose answers show which version gave them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from driftloop.infra.control.specs import apply_deployment
from driftloop.models.formats.fitted import Fitted
from driftloop.models.registry.signing import load_verifier
from driftloop.schemas.events import Label, Prediction
from driftloop.schemas.serving import FeatureSpec, ModelAck, ModelUpdate
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.schemas.topics import LABELS, MODEL_ACKS, MODEL_UPDATES, PREDICTIONS, Topic
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.record import Record
from driftloop.streams.serve.client import EventClient
from driftloop.streams.serve.hot.follower import FollowParts
from driftloop.streams.serve.hot.model import LiveModel, Swapped
from onnx import helper

from tests.support.kafka.topics import read_topic, write
from tests.support.models import onnx as brought
from tests.support.models.versions import VersionStore
from tests.support.models.worlds import update_to
from tests.support.waiting import wait_until

STEP = 1000.0


def model_of_version(version: int) -> Fitted:
    """A regression of one number: x + 1000·version, so that every answer says who gave it."""
    offset = helper.make_tensor("offset", brought.FLOAT, [1], [STEP * version])
    data = brought.one_node("Add", ["X", "offset"], width=1, initializers=[offset])
    return Fitted("onnx", data, (FeatureSpec(name="x", type="number"),), None, "regression")


def version_of_answer(prediction: object, x: float = 0.0) -> int:
    """Which version gave this answer to ``x``."""
    assert isinstance(prediction, float)
    return round((prediction - x) / STEP)


class ServingBench(VersionStore):
    """Keys, a store and the topics of one deployment."""

    def __init__(self, connection: Connection, folder: Path, model: str = "m") -> None:
        super().__init__(folder, model)
        self.connection = connection
        self.state_dir = folder / "serve"

    def apply_spec(self, **spec: Any) -> None:
        """Publishes the model's spec."""
        wanted = ModelSpec.model_validate({"task": "regression", **spec})
        apply_deployment(self.connection, Deployment(models={self.model: wanted}))

    def make(self, version: int, fitted: Fitted | None = None, **changes: Any) -> str:
        """Store a version; return its manifest's digest."""
        rows = [{"x": float(x)} for x in range(4)]
        return self.put(version, fitted or model_of_version(version), rows, **changes)

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

    @contextmanager
    def serving(self, client: EventClient, update: ModelUpdate, **more: Any) -> Iterator[LiveModel]:
        """A server on which the update, published here, is live."""
        self.publish(update)
        with self.serve(client, **more) as hot:
            assert hot.wait_ready()
            yield hot

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


def ack_with(bench: ServingBench, wanted: Callable[[ModelAck], bool]) -> ModelAck:
    """The first acknowledgement that is as wanted; waits for it."""
    return wait_until(lambda: next(filter(wanted, bench.acks()), None), "such an acknowledgement")
