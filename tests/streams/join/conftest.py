"""What the joiner's tests on Kafka share."""

from __future__ import annotations

import pytest
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.streams.kafka.connection import Connection


@pytest.fixture
def kafka(topics: Connection) -> Connection:
    """Topics of their own, with a spec of the model m."""
    apply_deployment(topics, Deployment(models={"m": ModelSpec()}))
    return topics
